"""Per-layer embeddings against their equations, in a model written out in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.feedforward.mlp import Gated
from model.layers import Except
from model.options.tree import check
from model.positions.absolute import NoPositions
from model.residual import HyperConnections
from model.transformer import forward
from model.vocabulary.multi_token import MultiToken
from model.vocabulary.per_layer import PerLayerEmbedding

ALIKE = {
    "num_layers": 3,
    "position": NoPositions(),
    "per_layer_embedding": PerLayerEmbedding(width=3, activation="relu"),
}
STACKS = ALIKE | {"exceptions": (Except(layers="1", ffn=Gated(width=20)),)}


def norm(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def logits_by_hand(p, tokens):
    """The model over one sequence, from parameters in float64."""
    embedding, every = p["embedding"]["table"][tokens], p["per_layer"]
    x = embedding
    for number in range(3):
        stacks, row = p["blocks"], number
        if "0" in stacks:
            stacks, row = stacks[str(number)], 0
        w = jax.tree.map(lambda a, row=row: a[row], stacks)
        read, out = norm(x, w["residual"]["mixer_norm"]["scale"]), np.zeros_like(x)
        for head in range(4):
            q, k, v = (
                read @ w["mixer"][n][:, h] for n, h in (("query", head), ("key", head // 2), ("value", head // 2))
            )
            for t in range(len(tokens)):
                e = np.exp(q[t] @ k[: t + 1].T / math.sqrt(4))
                out[t] += e / e.sum() @ v[: t + 1] @ w["mixer"]["output"][head]
        x = x + out
        read, f = norm(x, w["residual"]["ffn_norm"]["scale"]), w["ffn"]
        gate = read @ f["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (read @ f["up"])) @ f["down"]
        own, of_context = every["table"][tokens, number], embedding @ every["projection"][:, number] / math.sqrt(16)
        vector = (norm(of_context, every["norm"]["scale"]) + math.sqrt(3) * own) / math.sqrt(2)
        gated = np.maximum(x @ w["per_layer"]["gate"], 0) * vector
        x = x + norm(gated @ w["per_layer"]["output"], w["per_layer"]["norm"]["scale"])
    return norm(x, p["final_norm"]["scale"]) @ p["embedding"]["table"].T


def float64(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


@pytest.mark.parametrize(
    "changes", [ALIKE, STACKS, ALIKE | {"scan_layers": False}], ids=["alike", "stacks", "written out"]
)
def test_layer(small, drawn, run, tokens, changes):
    config = small(**changes)
    params = drawn(config)
    expected = np.stack([logits_by_hand(float64(params), row) for row in tokens])
    np.testing.assert_allclose(run(config, params, tokens)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["table", "projection"])
def test_gradients(small, drawn, tokens, name):
    """The derivative along one direction of what all layers read, against a difference of the equations."""
    config = small(**ALIKE)
    params, rng = drawn(config), np.random.default_rng(0)
    direction, towards = rng.normal(size=params["per_layer"][name].shape), rng.normal(size=(12, 17))
    slope = jax.jit(jax.grad(lambda p: jnp.sum(forward(config, p, tokens[:1]).logits_BTV[0] * towards)))(params)

    def moved(by):
        exact = float64(params)
        exact["per_layer"][name] = exact["per_layer"][name] + by * direction
        return np.sum(logits_by_hand(exact, tokens[0]) * towards)

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    got = np.sum(np.asarray(slope["per_layer"][name], np.float64) * direction)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual": HyperConnections(streams=2)}, "per_layer_embedding: adds to a stream of one vector a token"),
        ({"multi_token": MultiToken()}, "per_layer_embedding: has no vectors for the modules of multi_token"),
        ({"per_layer_embedding": PerLayerEmbedding(width=0)}, "per_layer_embedding.width: must be at least 1, got 0"),
    ],
)
def test_clashes(small, changes, message):
    with pytest.raises(UserError, match=message):
        check(small(**ALIKE | changes), "model")
