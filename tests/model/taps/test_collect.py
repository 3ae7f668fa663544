"""Taps of chosen layers: the program holds no other layers."""

import dataclasses
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.feedforward.mlp import Gated
from model.layers import Except
from model.taps.request import Tap, Taps
from model.transformer import abstract_params, forward
from tests.tiers import representatives

WINDOW = GroupedQuery(num_heads=4, num_kv_heads=2, pattern=SlidingWindow(size=3))
# One group of like layers; a pattern of two places and a last layer by itself, whose feed-forward is wider.
MODELS = {
    "alike": {"num_layers": 6},
    "mixed": {
        "num_layers": 7,
        "exceptions": (Except(layers="1::2", mixer=WINDOW), Except(layers="-1", ffn=Gated(width=20))),
    },
}


@pytest.mark.parametrize("model", representatives(MODELS, "mixed"))
@pytest.mark.parametrize("changes", representatives([{}, {"scan_layers": False}, {"remat": "full"}], {}), ids=str)
def test_chosen_layers_are_those_of_all(model, changes, small, drawn, run, tokens):
    config = small(**MODELS[model], **changes)
    params = drawn(config)
    expected = run(config, params, tokens, taps=("block_output", "attention_weights", "embedding"))[2]
    for layers in ((2, 5), (5, 2), (-1,), (0, 1, 2, 3, 4, 5), (4,)):
        taps = (Tap("block_output", layers), "embedding", Tap("attention_weights", (1,)))
        logits, _, kept = run(config, params, tokens, taps=taps)
        np.testing.assert_allclose(
            kept["block_output"], expected["block_output"][np.array(layers)], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(kept["attention_weights"], expected["attention_weights"][1:2], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(kept["embedding"], expected["embedding"], rtol=1e-6)
        np.testing.assert_allclose(logits, run(config, params, tokens)[0], rtol=1e-5, atol=1e-5)


def test_layers_of_one_shape_can_be_chosen_where_others_have_another(small, drawn, run, tokens):
    config = small(**MODELS["mixed"])
    kept = run(config, drawn(config), tokens, taps=(Tap("ffn_hidden", (0, 4)),))[2]
    assert kept["ffn_hidden"].shape == (2, 2, 12, 24)


def test_layers_may_be_a_list_a_range_or_a_number():
    assert (
        Tap("query", [0, 2]) == Tap("query", np.array([0, 2])) == Tap("query", range(0, 4, 2)) == Tap("query", (0, 2))
    )
    assert Tap("query", 3) == Tap("query", (3,))
    assert hash(Tap("query", [3])) == hash(Tap("query", 3))


def test_what_is_kept_has_the_edits_in_it(small, drawn, tokens):
    config = small(num_layers=3)
    taps = Taps(keep=("ffn_output",), edit={Tap("ffn_output", (1,)): lambda x, where: jnp.full_like(x, 7)})
    kept = forward(config, drawn(config), tokens, taps=taps).taps["ffn_output"]
    assert [bool(np.all(layer == 7)) for layer in kept] == [False, True, False]


def sizes(jaxpr):
    """Returns the sizes of all arrays of a program and of the programs that it calls."""
    for equation in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


@pytest.mark.parametrize("scan", [True, False])
def test_layers_that_are_not_chosen_are_not_held(scan, small, tokens):
    """The largest array has the size of two layers of weights if two are chosen, and of eight if all are."""
    config = small(num_layers=8, scan_layers=scan)

    def largest(taps):
        program = lambda p: (lambda o: (o.logits_BTV, o.taps))(forward(config, p, tokens, taps=taps))  # noqa: E731
        return max(sizes(jax.make_jaxpr(program)(abstract_params(config)).jaxpr))

    one = 2 * 4 * 12 * 12
    others = largest(())
    assert largest(("attention_weights",)) == 8 * one
    assert others <= 2 * one
    assert largest((Tap("attention_weights", (2, 5)),)) == 2 * one


def test_gradients_go_through_chosen_taps(small, drawn, tokens):
    config = small(num_layers=4)
    params = drawn(config)

    def gradient(tap, rows, **changes):
        def loss(params):
            output = forward(dataclasses.replace(config, **changes), params, tokens, taps=(tap,))
            return jnp.sum(output.taps["block_output"][rows] ** 2)

        return jax.jit(jax.grad(loss))(params)

    expected = gradient("block_output", np.array([1, 3]))
    for changes in ({}, {"scan_layers": False, "remat": "full"}):
        got = gradient(Tap("block_output", (1, 3)), slice(None), **changes)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
