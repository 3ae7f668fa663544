"""InternLM 2 as a plain NumPy loop (numpy_model.py); the equations are those of its modeling_internlm2.py.

Rows of `wqkv` lie key head by key head: the queries that share it, the key, the value.
"""

import numpy as np

from tests.parity.equations.numpy_model import Source, attend, layer_tensors, rms_norm, rotate, silu


def _shapes(config):
    width, hidden, vocab = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    fused = (heads + 2 * keys) * (width // heads)
    shapes = {"model.tok_embeddings.weight": (vocab, width), "model.norm.weight": (width,)}
    if not config.get("tie_word_embeddings", False):
        shapes["output.weight"] = (vocab, width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}{name}_norm.weight": (width,) for name in ("attention", "ffn")}
        shapes |= {f"{at}attention.wqkv.weight": (fused, width), f"{at}attention.wo.weight": (width, width)}
        if config.get("bias", True):
            shapes |= {f"{at}attention.wqkv.bias": (fused,), f"{at}attention.wo.bias": (width,)}
        shapes |= {f"{at}feed_forward.{name}.weight": (hidden, width) for name in ("w1", "w3")}
        shapes |= {f"{at}feed_forward.w2.weight": (width, hidden)}
    return shapes


def _row(config, tensors, tokens):
    table, epsilon = tensors["model.tok_embeddings.weight"], config.get("rms_norm_eps", 1e-6)
    x = table[tokens]
    for layer in range(config["num_hidden_layers"]):
        its = layer_tensors(tensors, layer)
        x = x + _attention(config, its, rms_norm(x, its["attention_norm.weight"], epsilon))
        y = rms_norm(x, its["ffn_norm.weight"], epsilon)
        w1, w2, w3 = (its[f"feed_forward.w{n}.weight"].T for n in (1, 2, 3))
        x = x + (silu(y @ w1) * (y @ w3)) @ w2
    return rms_norm(x, tensors["model.norm.weight"], epsilon) @ tensors.get("output.weight", table).T


def _attention(config, its, x):
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    size, group = config["hidden_size"] // heads, heads // keys
    theta = config.get("rope_theta", 10_000.0)
    divisor = (config.get("rope_scaling") or {"factor": 1.0})["factor"]  # the compared shapes have "linear" alone
    q, k, v = np.zeros((len(x), heads, size)), np.zeros((len(x), keys, size)), np.zeros((len(x), keys, size))
    fused = x @ its["attention.wqkv.weight"].T + its.get("attention.wqkv.bias", 0)
    start = 0
    for key in range(keys):
        for query in range(key * group, (key + 1) * group):
            q[:, query], start = fused[:, start : start + size], start + size
        k[:, key], start = fused[:, start : start + size], start + size
        v[:, key], start = fused[:, start : start + size], start + size
    q, k = rotate(q, theta, divisor), rotate(k, theta, divisor)
    out = attend(q, k, v, lambda scores, head: scores / np.sqrt(size))
    return out @ its["attention.wo.weight"].T + its.get("attention.wo.bias", 0)


SOURCE = Source("InternLM2ForCausalLM", _shapes, _row)
