"""Baichuan 1 and 2 as a plain NumPy loop (numpy_model.py); the equations are those of their modeling_baichuan.py.

The code of the 7B models rotates queries and keys, that of the 13B models adds a slope times the number of the key to
scores. Baichuan 2 divides every row of the unembedding by its norm.
"""

import numpy as np

from tests.parity.equations.numpy_model import Source, attend, layer_tensors, rms_norm, rotate, silu


def _shapes(config):
    width, hidden, vocab = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    shapes |= {"lm_head.weight": (vocab, width)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.W_pack.weight": (3 * width, width), f"{at}self_attn.o_proj.weight": (width, width)}
        shapes |= {f"{at}mlp.{name}_proj.weight": (hidden, width) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (width, hidden)}
    return shapes


def _row(config, tensors, tokens):
    epsilon, x = config.get("rms_norm_eps", 1e-6), tensors["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        its = layer_tensors(tensors, layer)
        x = x + _attention(config, its, rms_norm(x, its["input_layernorm.weight"], epsilon))
        y = rms_norm(x, its["post_attention_layernorm.weight"], epsilon)
        gate, up, down = (its[f"mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        x = x + (silu(y @ gate) * (y @ up)) @ down
    output = tensors["lm_head.weight"]
    if config["vocab_size"] != 64_000:
        output = output / np.linalg.norm(output, axis=-1, keepdims=True)
    return rms_norm(x, tensors["model.norm.weight"], epsilon) @ output.T


def _attention(config, its, x):
    heads, size = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    q, k, v = np.split(x @ its["self_attn.W_pack.weight"].T, 3, axis=-1)
    q, k, v = (part.reshape(len(x), heads, size) for part in (q, k, v))
    if "max_position_embeddings" in config:
        q, k, slopes = rotate(q), rotate(k), np.zeros(heads)
    else:
        slopes = _slopes(heads)
    numbers = np.arange(len(x))
    out = attend(q, k, v, lambda scores, head: scores / np.sqrt(size) + slopes[head] * numbers)
    return out @ its["self_attn.o_proj.weight"].T


def _slopes(heads):
    """Returns 2^(-8/P), 2^(-16/P), ... for the largest power of two P; further heads lie between the first of these."""
    power = 2 ** int(np.log2(heads))
    between = 2.0 ** (-8 * (np.arange(heads - power) + 0.5) / power)
    return np.concatenate([2.0 ** (-8 * (np.arange(power) + 1) / power), between])


SOURCE = Source("BaichuanForCausalLM", _shapes, _row)
