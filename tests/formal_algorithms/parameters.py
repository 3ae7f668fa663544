"""Parameters for the algorithms: drawn at random, or those of a Cairn model."""

import numpy as np


def heads_of(mixer):
    """W of algorithm 5, of the arrays of a GroupedQuery layer with as many key heads as query heads.

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
    blocks = params["blocks"]
    layers = []
    for number in range(len(blocks["ffn"]["up"])):
        block = _layer(blocks, number)
        norms, ffn = block["residual"], block["ffn"]
        layers.append(
            {
                "attention": heads_of(block["mixer"]),
                "mlp": {
                    "W_in": ffn["up"].T,
                    "b_in": ffn["up_bias"],
                    "W_out": ffn["down"].T,
                    "b_out": ffn["down_bias"],
                },
                "gamma_1": norms["mixer_norm"]["scale"],
                "beta_1": norms["mixer_norm"]["bias"],
                "gamma_2": norms["ffn_norm"]["scale"],
                "beta_2": norms["ffn_norm"]["bias"],
            }
        )
    return {
        "W_e": params["embedding"]["table"].T,
        "W_p": params["position"]["table"].T,
        "layers": layers,
        "gamma": params["final_norm"]["scale"],
        "beta": params["final_norm"]["bias"],
        "W_u": params["embedding"]["output"].T,
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


def _float64(tree):
    return {name: _float64(x) if isinstance(x, dict) else np.asarray(x, np.float64) for name, x in tree.items()}


def _layer(blocks, number):
    return {name: _layer(x, number) if isinstance(x, dict) else x[number] for name, x in blocks.items()}
