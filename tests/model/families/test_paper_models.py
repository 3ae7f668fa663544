"""Models of papers agree with their papers: GPT-3's tables, and the equations of the Transformer."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from model.attention.patterns import Everything, SlidingWindow
from model.cost import count_parameters
from model.dropout import Dropout
from model.families.paper_models import MODELS
from model.families.sizes import published
from model.residual import Multipliers
from model.transformer import abstract_params
from tests.parity.sizes import ROUNDED

# Brown et al. 2020, table 2.1: layers, width, heads, width of a head.
TABLE = {
    "gpt3-small": (12, 768, 12, 64),
    "gpt3-medium": (24, 1024, 16, 64),
    "gpt3-large": (24, 1536, 16, 96),
    "gpt3-xl": (24, 2048, 24, 128),
    "gpt3-2.7b": (32, 2560, 32, 80),
    "gpt3-6.7b": (32, 4096, 32, 128),
    "gpt3-13b": (40, 5140, 40, 128),
    "gpt3-175b": (96, 12288, 96, 128),
}
# Table D.1: millions of parameters, and the number of significant digits.
MILLIONS = {
    "gpt3-small": (125, 3),
    "gpt3-medium": (356, 3),
    "gpt3-large": (760, 3),
    "gpt3-xl": (1_320, 3),
    "gpt3-2.7b": (2_650, 3),
    "gpt3-6.7b": (6_660, 3),
    "gpt3-13b": (12_850, 4),
    "gpt3-175b": (174_600, 4),
}
# Their rows of table 2.1 do not give the parameter counts of table D.1.
DISAGREE = ("gpt3-xl", "gpt3-13b")


def by_the_table(layers, width, heads, head_dim):
    """Counts embeddings and positions; attention, feed-forward and two norms of every layer; the last norm."""
    attention = 4 * width * heads * head_dim + 3 * heads * head_dim + width
    ffn = 2 * width * 4 * width + 4 * width + width
    return 50257 * width + 2048 * width + layers * (attention + ffn + 4 * width) + 2 * width


def rounded(count, digits):
    return float(f"{count:.{digits - 1}e}")


@pytest.mark.parametrize("name", TABLE)
def test_gpt3_is_its_row_of_the_table(name):
    model, (layers, width, heads, head_dim) = MODELS[name], TABLE[name]
    assert (model.num_layers, model.width, model.ffn.width) == (layers, width, 4 * width)
    assert (model.mixer.num_heads, model.mixer.head_width(width)) == (heads, head_dim)
    assert count_parameters(model).total == by_the_table(*TABLE[name])
    patterns = [layer.mixer.pattern for layer in model.layers]
    assert patterns == [Everything(), SlidingWindow(size=256)] * (layers // 2)


def test_gpt3_small_is_gpt2_but_for_context_bands_and_dropout():
    small, gpt2 = MODELS["gpt3-small"], published("gpt2")
    same = {"context_length": 1024, "exceptions": (), "dropout": gpt2.dropout}
    assert dataclasses.replace(small, **same, mixer=dataclasses.replace(small.mixer, head_dim=None)) == gpt2


@pytest.mark.parametrize("name", sorted(set(TABLE) - set(DISAGREE)))
def test_gpt3_has_the_parameters_of_the_paper(name):
    millions, digits = MILLIONS[name]
    assert rounded(count_parameters(MODELS[name]).total, digits) == millions * 1e6


def test_what_table_2_1_rounds_in_another_way():
    """Our counts, rounded to the digits of table 2.1, beside the counts of table 2.1."""
    unit = {"M": 1e6, "B": 1e9}
    ours = {}
    for name, label in ROUNDED.items():
        places = len(label.partition(".")[2].rstrip("MB"))
        ours[name] = f"{count_parameters(MODELS[name]).total / unit[label[-1]]:.{places}f}{label[-1]}"
    differ = {name: (ours[name], label) for name, label in ROUNDED.items() if ours[name] != label}
    assert differ == {
        "gpt3-medium": ("356M", "350M"),  # 356 in table D.1
        "gpt3-xl": ("1.5B", "1.3B"),  # with 24 heads, where 16 fill the width
        "gpt3-13b": ("12.9B", "13.0B"),  # 12.85 in table D.1
        "gpt3-175b": ("174.6B", "175.0B"),  # 174.6 in table D.1
    }


def test_rows_that_do_not_add_up_do_so_with_16_heads_and_a_width_of_5120():
    for name in DISAGREE:
        millions, digits = MILLIONS[name]
        assert rounded(by_the_table(*TABLE[name]), digits) != millions * 1e6
    assert rounded(by_the_table(24, 2048, 16, 128), 3) == 1_320e6
    assert rounded(by_the_table(40, 5120, 40, 128), 4) == 12_850e6


def shrunk(name):
    """Returns the named decoder, shrunk to two layers of width 16 with four heads."""
    model = MODELS[name]
    return dataclasses.replace(
        model,
        vocab_size=17,
        context_length=16,
        num_layers=2,
        width=16,
        mixer=dataclasses.replace(model.mixer, num_heads=4),
        ffn=dataclasses.replace(model.ffn, width=24),
        multipliers=Multipliers(embedding=4.0),
    )


def decoder(p, tokens):
    """Vaswani et al. 2017 as loops, without an encoder: returns float64 logits (T, V) of one sequence."""

    def norm(x, w):
        return np.stack([(v - v.mean()) / math.sqrt(v.var() + 1e-5) * w["scale"] + w["bias"] for v in x])

    def softmax(x):
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    x = np.zeros((len(tokens), 16))
    for t, token in enumerate(tokens):
        for i in range(8):  # section 3.5
            angle = t / 10_000 ** (2 * i / 16)
            x[t, 2 * i], x[t, 2 * i + 1] = math.sin(angle), math.cos(angle)
        x[t] += math.sqrt(16) * p["embedding"]["table"][token]  # section 3.4
    for layer in range(2):
        w = jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"])
        a, f = w["mixer"], w["ffn"]
        out = np.zeros_like(x)
        for head in range(4):
            q, k, v = (x @ a[name][:, head] for name in ("query", "key", "value"))
            for t in range(len(tokens)):
                weights = softmax(q[t] @ k[: t + 1].T / math.sqrt(4))  # equation 1
                out[t] += weights @ v[: t + 1] @ a["output"][head]
        x = norm(x + out, w["residual"]["mixer_norm"])  # section 3.1
        out = np.maximum(0, x @ f["up"] + f["up_bias"]) @ f["down"] + f["down_bias"]  # equation 2
        x = norm(x + out, w["residual"]["ffn_norm"])
    return x @ p["embedding"]["table"].T


def test_the_transformer_against_a_loop_of_its_equations(drawn, run, tokens):
    config = shrunk("transformer-base")
    params = drawn(config)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    logits = run(config, params, tokens)[0]
    for row in range(2):
        np.testing.assert_allclose(logits[row], decoder(exact, tokens[row]), rtol=1e-5, atol=1e-5)


def test_the_transformers_of_table_3():
    base, big = MODELS["transformer-base"], MODELS["transformer-big"]
    for model, width, heads, ffn, dropout in ((base, 512, 8, 2048, 0.1), (big, 1024, 16, 4096, 0.3)):
        assert (model.num_layers, model.width, model.mixer.num_heads, model.ffn.width) == (6, width, heads, ffn)
        assert model.mixer.head_width(width) == 64
        assert model.multipliers == Multipliers(embedding=width**0.5)
        assert model.dropout == Dropout(embedding=dropout, residual=dropout)
        params = abstract_params(model)
        assert set(params) == {"embedding", "blocks"}
        assert set(params["blocks"]["mixer"]) == {"query", "key", "value", "output"}
    assert shrunk("transformer-big") == dataclasses.replace(
        shrunk("transformer-base"),
        dropout=big.dropout,
        initialization=big.initialization,
    )
