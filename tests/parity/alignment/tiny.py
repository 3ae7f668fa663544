"""A tiny model of the LLaMA family and a few pairs of answers, drawn by NumPy alone, for both sides of a comparison."""

import numpy as np

VOCAB, WIDTH, LAYERS, HEADS, FFN, LENGTH = 48, 16, 2, 2, 24, 16
HEAD_DIM = WIDTH // HEADS
EPSILON, THETA = 1e-6, 10_000.0
SHAPES = {
    "embedding.table": (VOCAB, WIDTH),
    "embedding.output": (WIDTH, VOCAB),
    "blocks.mixer.query": (LAYERS, WIDTH, HEADS, HEAD_DIM),
    "blocks.mixer.key": (LAYERS, WIDTH, HEADS, HEAD_DIM),
    "blocks.mixer.value": (LAYERS, WIDTH, HEADS, HEAD_DIM),
    "blocks.mixer.output": (LAYERS, HEADS, HEAD_DIM, WIDTH),
    "blocks.ffn.gate": (LAYERS, WIDTH, FFN),
    "blocks.ffn.up": (LAYERS, WIDTH, FFN),
    "blocks.ffn.down": (LAYERS, FFN, WIDTH),
    "blocks.residual.mixer_norm.scale": (LAYERS, WIDTH),
    "blocks.residual.ffn_norm.scale": (LAYERS, WIDTH),
    "final_norm.scale": (WIDTH,),
    "score_head.weight": (WIDTH, 1),
}
BETA, TAU, SIMPO_BETA, GAMMA, ODDS, CENTRING = 0.3, 0.4, 2.0, 0.5, 0.7, 0.05
DESIRABLE, UNDESIRABLE = 1.2, 0.8
MARGINS = (0.5, 0.0, 1.5, 1.0)


def weights(seed):
    """Parameters by name, float32; those of seed 1 are near those of seed 0, as a policy is near its reference."""
    base, change = np.random.default_rng(0), np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        drawn = base.standard_normal(shape) * 0.3 + (0.03 * change.standard_normal(shape) if seed else 0.0)
        found[name] = ((1.0 if name.endswith("scale") else 0.0) + drawn).astype(np.float32)
    return found


def pairs():
    """Lists of ids: (prompt, chosen, rejected)."""
    draw = np.random.default_rng(3)
    sizes = ((4, 3, 5), (2, 6, 1), (5, 2, 2), (3, 4, 7))
    return [tuple(draw.integers(3, VOCAB, size).tolist() for size in row) for row in sizes]


def labelled():
    """Lists of ids and a label: (prompt, answer, answer to the prompt before it, label), as trl mismatches them."""
    rows = [
        (prompt, chosen if i % 2 == 0 else rejected, i % 2 == 0) for i, (prompt, chosen, rejected) in enumerate(pairs())
    ]
    return [(prompt, answer, rows[i - 1][1], label) for i, (prompt, answer, label) in enumerate(rows)]
