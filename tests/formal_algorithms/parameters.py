"""Parameters for the algorithms, drawn at random or those of a Cairn model; and masks that are no draw."""

import numpy as np


def heads_of(mixer):
    """W of algorithm 5, of the arrays of a GroupedQuery or CrossAttention layer with as many key heads as query heads.

    Cairn has queries, keys and values as (D, N, H) and the output as (N, H, D), to multiply rows from the right.
    """
    heads = [
        {
            **{
                f"W_{letter}": mixer[name][:, h].T
                for letter, name in zip("qkv", ("query", "key", "value"), strict=True)
            },
            **{
                f"b_{letter}": mixer[f"{name}_bias"][h]
                for letter, name in zip("qkv", ("query", "key", "value"), strict=True)
            },
        }
        for h in range(mixer["query"].shape[1])
    ]
    output = mixer["output"]
    return {"heads": heads, "W_o": output.reshape(-1, output.shape[-1]).T, "b_o": mixer["output_bias"]}


def decoder_of(params):
    """theta of algorithm 10, in float64, of the parameters of a Cairn model."""
    params = _float64(params)
    return {
        **_ends_of(params),
        "layers": _layers_of(params["blocks"], {"mixer": 1, "ffn": 2}),
        "gamma": params["final_norm"]["scale"],
        "beta": params["final_norm"]["bias"],
    }


def encoder_of(params):
    """theta of algorithm 9, in float64, of the parameters of a Cairn model with a prediction head."""
    params = _float64(params)
    head = params["head"]
    return {
        **_ends_of(params),
        "layers": _layers_of(params["blocks"], {"mixer": 1, "ffn": 2}),
        "W_f": head["dense"].T,
        "b_f": head["dense_bias"],
        "gamma": head["norm"]["scale"],
        "beta": head["norm"]["bias"],
    }


def encoder_decoder_of(params):
    """theta of algorithm 8, in float64, of the parameters of a Cairn model with an encoder.

    W_p is the decoder's table of positions: the encoder of a Cairn model has one of its own.
    """
    params = _float64(params)
    return {
        **_ends_of(params),
        "encoder": _layers_of(params["encoder"]["blocks"], {"mixer": 1, "ffn": 2}),
        "decoder": _layers_of(params["blocks"], {"mixer": 3, "cross": 4, "ffn": 5}),
    }


def drawn_encoder(rng, *, d_e, d_mlp, heads, vocabulary, longest, layers):
    """Random theta of algorithm 9."""
    return {
        **_drawn_ends(rng, d_e, vocabulary, longest),
        "layers": [_drawn_layer(rng, d_e, d_mlp, heads, (1, 2)) for _ in range(layers)],
        "W_f": draw(rng, d_e, d_e),
        "b_f": draw(rng, d_e),
        "gamma": 1 + draw(rng, d_e),
        "beta": draw(rng, d_e),
    }


def drawn_encoder_decoder(rng, *, d_e, d_mlp, heads, vocabulary, longest, layers):
    """Random theta of algorithm 8."""
    decoder = [_drawn_layer(rng, d_e, d_mlp, heads, (3, 4, 5)) for _ in range(layers)]
    return {
        **_drawn_ends(rng, d_e, vocabulary, longest),
        "encoder": [_drawn_layer(rng, d_e, d_mlp, heads, (1, 2)) for _ in range(layers)],
        "decoder": [layer | {"cross_attention": drawn_heads(rng, d_e, heads)} for layer in decoder],
    }


def drawn_heads(rng, d_e, heads):
    """Random W of algorithm 5."""
    d_attn = d_e // heads
    each = [
        {f"W_{letter}": draw(rng, d_attn, d_e) for letter in "qkv"}
        | {f"b_{letter}": draw(rng, d_attn) for letter in "qkv"}
        for _ in range(heads)
    ]
    return {"heads": each, "W_o": draw(rng, d_e, d_e), "b_o": draw(rng, d_e)}


def draw(rng, *shape):
    """Normal numbers of standard deviation 0.5."""
    return 0.5 * rng.standard_normal(shape)


def _drawn_ends(rng, d_e, vocabulary, longest):
    return {"W_e": draw(rng, d_e, vocabulary), "W_p": draw(rng, d_e, longest), "W_u": draw(rng, vocabulary, d_e)}


def _drawn_layer(rng, d_e, d_mlp, heads, norms):
    return {
        "attention": drawn_heads(rng, d_e, heads),
        "mlp": {
            "W_in": draw(rng, d_mlp, d_e),
            "b_in": draw(rng, d_mlp),
            "W_out": draw(rng, d_e, d_mlp),
            "b_out": draw(rng, d_e),
        },
        **{f"gamma_{i}": 1 + draw(rng, d_e) for i in norms},
        **{f"beta_{i}": draw(rng, d_e) for i in norms},
    }


class Hides:
    """Stands for the generator of algorithm 12: numbers below p_mask for these tokens, a boolean each."""

    def __init__(self, masked):
        self.masked = masked

    def random(self, size):
        assert size == len(self.masked)
        return np.where(self.masked, 0.0, 1.0)


def _ends_of(params):
    return {
        "W_e": params["embedding"]["table"].T,
        "W_p": params["position"]["table"].T,
        "W_u": params["embedding"]["output"].T,
    }


def _layers_of(blocks, norms):
    """The layers of stacked blocks; `norms` has the number that the paper gives to the norm of each sublayer."""
    layers = []
    for number in range(len(blocks["ffn"]["up"])):
        block = _layer(blocks, number)
        ffn = block["ffn"]
        layer = {
            "attention": heads_of(block["mixer"]),
            "mlp": {"W_in": ffn["up"].T, "b_in": ffn["up_bias"], "W_out": ffn["down"].T, "b_out": ffn["down_bias"]},
        }
        if "cross" in block:
            layer["cross_attention"] = heads_of(block["cross"])
        for sublayer, i in norms.items():
            norm = block["residual"][f"{sublayer}_norm"]
            layer |= {f"gamma_{i}": norm["scale"], f"beta_{i}": norm["bias"]}
        layers.append(layer)
    return layers


def _float64(tree):
    return {name: _float64(x) if isinstance(x, dict) else np.asarray(x, np.float64) for name, x in tree.items()}


def _layer(blocks, number):
    return {name: _layer(x, number) if isinstance(x, dict) else x[number] for name, x in blocks.items()}
