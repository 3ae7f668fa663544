"""Grok-1 as a plain NumPy loop, in float64, with the functions of tests/parity/reference.py.

The equations are those of model.py of github.com/xai-org/grok-1; nothing of Cairn takes part. Gradients are central
differences of the loss, one parameter after the other.
"""

import dataclasses
import json
import pathlib
import zlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.parity.cases import CASES
from tests.parity.shapes import PROMPTS

NEW_TOKENS, STEP = 64, 1e-5


@dataclasses.dataclass
class Model:
    """config.json and the tensors by name."""

    config: dict
    tensors: dict


def make(family, shape):
    """Returns the model of a case, with weights that bfloat16 stores exactly."""
    config = CASES[family][shape]
    rng = np.random.default_rng(zlib.crc32(f"{family} {shape}".encode()))
    width, hidden, vocab = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim", width // heads)
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.scale": (width,)}
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (vocab, width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}{name}_norm.scale": (width,) for name in ("pre_attn", "post_attn", "pre_moe", "post_moe")}
        shapes |= {f"{at}attn.{name}_proj.weight": (n * size, width) for name, n in zip("qkv", (heads, keys, keys))}
        shapes |= {f"{at}attn.o_proj.weight": (width, heads * size)}
        shapes |= {f"{at}moe_block.gate.weight": (config["num_experts"], width)}
        for expert in range(config["num_experts"]):
            there = f"{at}moe_block.experts.{expert}."
            shapes |= {f"{there}{name}.weight": (hidden, width) for name in ("linear", "linear_v")}
            shapes |= {f"{there}linear_1.weight": (width, hidden)}
    tensors = {}
    for name, its in shapes.items():
        x = rng.standard_normal(its)
        x = 1 + 0.3 * x if len(its) == 1 else x * 1.2 / np.sqrt(its[-1])
        tensors[name] = x.astype(ml_dtypes.bfloat16).astype(np.float64)
    return Model(config, tensors)


def save(model, folder):
    """Writes the model in the format of published models."""
    fields = {"architectures": ["Grok1ModelForCausalLM"]} | model.config
    (pathlib.Path(folder) / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in model.tensors.items()}
    save_file(tensors, pathlib.Path(folder) / "model.safetensors")


def logits(model, ids):
    """Returns logits (B, T, V)."""
    return np.stack([_row(model, row) for row in np.asarray(ids)])


def gradients(model, ids, folder=None):
    """Returns the gradient of the mean next-token cross-entropy, by the names of tensors."""
    found = {name: np.zeros(x.shape) for name, x in model.tensors.items()}
    for name, x in model.tensors.items():
        for index in np.ndindex(x.shape):
            before, ends = x[index], []
            for step in (STEP, -STEP):
                x[index] = before + step
                ends.append(_loss(model, ids))
            x[index] = before
            found[name][index] = (ends[0] - ends[1]) / (2 * STEP)
    return found


def greedy(model, ids):
    """Returns the greedily generated tokens of both prompts, each computed alone."""
    rows = []
    for row, length in zip(ids, PROMPTS, strict=True):
        tokens = list(row[:length])
        for _ in range(NEW_TOKENS):
            tokens.append(int(_row(model, np.array(tokens))[-1].argmax()))
        rows.append(tokens[length:])
    return rows


def _loss(model, ids):
    z = logits(model, ids)[:, :-1]
    z = z - z.max(-1, keepdims=True)
    z = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return -np.take_along_axis(z, np.asarray(ids)[:, 1:, None], -1).mean()


def _row(model, tokens):
    config, tensors = model.config, model.tensors
    table = tensors["model.embed_tokens.weight"]
    x = table[tokens] * config.get("embedding_multiplier_scale", 78.38367176906169)
    for layer in range(config["num_hidden_layers"]):
        its = {name.split(".", 3)[3]: t for name, t in tensors.items() if name.startswith(f"model.layers.{layer}.")}
        y = _attention(config, its, _norm(config, x, its["pre_attn_norm.scale"]))
        x = x + _norm(config, y, its["post_attn_norm.scale"])
        y = _experts(config, its, _norm(config, x, its["pre_moe_norm.scale"]))
        x = x + _norm(config, y, its["post_moe_norm.scale"])
    x = _norm(config, x, tensors["model.norm.scale"])
    return x @ tensors.get("lm_head.weight", table).T * config.get("output_multiplier_scale", 0.5773502691896257)


def _norm(config, x, scale):
    return scale * x / np.sqrt((x * x).mean(-1, keepdims=True) + config.get("rms_norm_eps", 1e-5))


def _attention(config, its, x):
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    length = len(x)
    q, k, v = (
        (x @ its[f"attn.{name}_proj.weight"].T).reshape(length, n, -1) for name, n in zip("qkv", (heads, keys, keys))
    )
    q, k, cap = _rotate(q), _rotate(k), config.get("max_attn_value", 30.0)
    seen, out = np.tril(np.ones((length, length), bool)), []
    for head in range(heads):
        key = head // (heads // keys)
        scores = q[:, head] @ k[:, key].T * config.get("attn_output_multiplier", 0.08838834764831845)
        weights = np.where(seen, np.exp(cap * np.tanh(scores / cap)), 0)
        out.append(weights / weights.sum(-1, keepdims=True) @ v[:, key])
    return np.concatenate(out, -1) @ its["attn.o_proj.weight"].T


def _rotate(x):
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def _experts(config, its, x):
    scores = np.exp(x @ its["moe_block.gate.weight"].T)
    scores = scores / scores.sum(-1, keepdims=True)
    chosen = np.argsort(-scores, -1)[:, : config["num_experts_per_tok"]]
    out = np.zeros_like(x)
    for expert in range(config["num_experts"]):
        rows = np.flatnonzero((chosen == expert).any(-1))
        gate, up, down = (
            its[f"moe_block.experts.{expert}.{name}.weight"].T for name in ("linear", "linear_v", "linear_1")
        )
        g = x[rows] @ gate
        gelu = 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))
        out[rows] += scores[rows, expert, None] * ((gelu * (x[rows] @ up)) @ down)
    return out
