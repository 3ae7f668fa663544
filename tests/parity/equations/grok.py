"""Grok-1 as a plain NumPy loop (numpy_model.py); the equations are those of model.py of github.com/xai-org/grok-1."""

import numpy as np

from tests.parity.equations.numpy_model import Source, attend, layer_tensors, rms_norm, rotate


def _shapes(config):
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
    return shapes


def _row(config, tensors, tokens):
    table, epsilon = tensors["model.embed_tokens.weight"], config.get("rms_norm_eps", 1e-5)
    x = table[tokens] * config.get("embedding_multiplier_scale", 78.38367176906169)
    for layer in range(config["num_hidden_layers"]):
        its = layer_tensors(tensors, layer)
        y = _attention(config, its, rms_norm(x, its["pre_attn_norm.scale"], epsilon))
        x = x + rms_norm(y, its["post_attn_norm.scale"], epsilon)
        y = _experts(config, its, rms_norm(x, its["pre_moe_norm.scale"], epsilon))
        x = x + rms_norm(y, its["post_moe_norm.scale"], epsilon)
    x = rms_norm(x, tensors["model.norm.scale"], epsilon)
    return x @ tensors.get("lm_head.weight", table).T * config.get("output_multiplier_scale", 0.5773502691896257)


def _attention(config, its, x):
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    q, k, v = (
        (x @ its[f"attn.{name}_proj.weight"].T).reshape(len(x), n, -1) for name, n in zip("qkv", (heads, keys, keys))
    )
    scale, cap = config.get("attn_output_multiplier", 0.08838834764831845), config.get("max_attn_value", 30.0)
    out = attend(rotate(q), rotate(k), v, lambda scores, head: cap * np.tanh(scores * scale / cap))
    return out @ its["attn.o_proj.weight"].T


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


SOURCE = Source("Grok1ModelForCausalLM", _shapes, _row)
