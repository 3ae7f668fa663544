"""Value residuals against their equations, and what layers hand on to each other."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.attention.value_residual import ValueResidual
from model.errors import UserError
from model.layers import Except
from model.options.tree import check
from model.positions.absolute import NoPositions
from model.recurrent.delta import GatedDelta
from model.stack import empty_caches
from model.transformer import forward, init
from model.vocabulary.multi_token import MultiToken
from tests.tiers import SWEEP

IDENTITY, CONSTANT = ValueResidual(), ValueResidual(first=2.0, own=0.3)
TRAINED = ValueResidual(trained=True)
PLAIN = GroupedQuery(num_heads=4, num_kv_heads=2)


def mixing(option):
    return dataclasses.replace(PLAIN, value_residual=option)


def logits_by_hand(p, tokens, weights):
    """A model without positions over one sequence; weights has (first, own) of every layer, None where it has none."""

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale

    x, first = p["embedding"]["table"][tokens], None
    for layer, of_layer in enumerate(weights):
        w = jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"])
        read, out = norm(x, w["residual"]["mixer_norm"]["scale"]), np.zeros_like(x)
        values = np.einsum("td,dkh->tkh", read, w["mixer"]["value"])
        if of_layer is not None:
            if first is None:
                first = values
            else:
                values = of_layer[0] * first + of_layer[1] * values
        for head in range(4):
            q, k = read @ w["mixer"]["query"][:, head], read @ w["mixer"]["key"][:, head // 2]
            for t in range(len(tokens)):
                e = np.exp(q[t] @ k[: t + 1].T / math.sqrt(4))
                out[t] += e / e.sum() @ values[: t + 1, head // 2] @ w["mixer"]["output"][head]
        x = x + out
        read, f = norm(x, w["residual"]["ffn_norm"]["scale"]), w["ffn"]
        gate = read @ f["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (read @ f["up"])) @ f["down"]
    return norm(x, p["final_norm"]["scale"]) @ p["embedding"]["table"].T


@pytest.mark.parametrize("option", [IDENTITY, CONSTANT, TRAINED], ids=repr)
def test_layer(small, drawn, run, tokens, option):
    config = small(mixer=mixing(option), position=NoPositions(), num_layers=3)
    params = drawn(config)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    weights = [(option.first, option.own)] * 3
    if option.trained:
        weights = exact["blocks"]["mixer"]["value_residual"]["weights"]
    expected = np.stack([logits_by_hand(exact, row, weights) for row in tokens])
    np.testing.assert_allclose(run(config, params, tokens)[0], expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_later_layers_reach_the_first_values(small, drawn, tokens):
    """The derivative along one direction of the first layer's value matrix, against a difference of the equations."""
    config = small(mixer=mixing(CONSTANT), position=NoPositions(), num_layers=3)
    params, rng = drawn(config), np.random.default_rng(0)
    direction, towards = rng.normal(size=(16, 2, 4)), rng.normal(size=(12, 17))
    slope = jax.jit(jax.grad(lambda p: jnp.sum(forward(config, p, tokens[:1]).logits_BTV[0] * towards)))(params)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def moved(by):
        values = exact["blocks"]["mixer"]["value"].copy()
        values[0] += by * direction
        attention = {**exact["blocks"]["mixer"], "value": values}
        of_this = {**exact, "blocks": {**exact["blocks"], "mixer": attention}}
        return np.sum(logits_by_hand(of_this, tokens[0], [(2.0, 0.3)] * 3) * towards)

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    got = np.sum(np.asarray(slope["blocks"]["mixer"]["value"][0], np.float64) * direction)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_some_layers_alone(small, drawn, run, tokens):
    """The values of the first layer with the option are mixed in; layers without the option do not change."""
    changes = {"position": NoPositions(), "num_layers": 4}
    config = small(mixer=PLAIN, exceptions=(Except(layers="1::2", mixer=mixing(CONSTANT)),), **changes)
    params, plain = drawn(config), small(mixer=PLAIN, **changes)
    stacked = jax.tree.map(lambda a, b: np.stack([a, b], 1).reshape(4, *a.shape[1:]), *params["blocks"].values())
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), {**params, "blocks": stacked})
    expected = np.stack([logits_by_hand(exact, row, [None, (2.0, 0.3), None, (2.0, 0.3)]) for row in tokens])
    np.testing.assert_allclose(run(config, params, tokens)[0], expected, rtol=1e-4, atol=1e-4)
    without = run(plain, {**params, "blocks": stacked}, tokens)[0]
    assert np.abs(without - expected).max() > 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": mixing(TRAINED), "num_layers": 3},
        pytest.param(
            {
                "mixer": mixing(CONSTANT),
                "num_layers": 5,
                "exceptions": (
                    Except(layers="1", mixer=GatedDelta(num_heads=2)),
                    Except(layers="2", mixer=dataclasses.replace(mixing(IDENTITY), pattern=SlidingWindow(size=3))),
                ),
            },
            marks=SWEEP,
        ),
    ],
    ids=["alike", "beside others"],
)
def test_scanned_written_out_recomputed_and_cached(small, drawn, run, tokens, changes):
    config = small(**changes)
    params = drawn(config)
    full = run(config, params, tokens)[0]
    for same in ({"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}):
        np.testing.assert_allclose(run(small(**changes | same), params, tokens)[0], full, rtol=1e-4, atol=1e-4)
    cache, parts = empty_caches(config, 2, 12), []
    for begin, size in ((0, 7), (7, 1), (8, 4)):
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (2, size))
        some, cache, _ = run(config, params, tokens[:, begin : begin + size], positions_BT=positions, cache=cache)
        parts.append(some)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_first_values_and_the_weights_of_later_layers(small, drawn, tokens):
    config = small(mixer=mixing(TRAINED), num_layers=3)
    params = drawn(config)
    loss = lambda c, p: jnp.sin(forward(c, p, tokens).logits_BTV).mean()  # noqa: E731
    slopes = jax.jit(jax.grad(lambda p: loss(config, p)))(params)
    weights = slopes["blocks"]["mixer"]["value_residual"]["weights"]
    assert not weights[0].any()
    assert (np.abs(weights[1:]) > 0).all()
    again = jax.jit(jax.grad(lambda p: loss(small(mixer=mixing(TRAINED), num_layers=3, remat="full"), p)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), slopes, again)


def test_trained_weights_start_as_said(small):
    config = small(mixer=mixing(ValueResidual(first=0.2, own=0.7, trained=True)))
    drawn = jax.jit(lambda: init(config, jax.random.key(0)))()["blocks"]["mixer"]["value_residual"]["weights"]
    np.testing.assert_array_equal(drawn, np.float32([[0.2, 0.7]] * 2))


def test_modules_that_look_ahead_are_handed_the_first_values(small, drawn, tokens):
    """With weight on the first values alone, those that the modules' own block projects do nothing."""
    config = small(mixer=mixing(ValueResidual(first=1.0, own=1e-30)), multi_token=MultiToken())
    params = drawn(config)
    counted = {"weights_BT": jnp.ones(tokens.shape), "targets_BT": jnp.asarray(tokens)}

    def loss(params):
        return forward(config, params, tokens, **counted).losses["multi_token_loss"]

    slopes = jax.jit(jax.grad(loss))(params)
    assert np.abs(slopes["multi_token"]["block"]["mixer"]["value"]).max() < 1e-25
    assert np.abs(slopes["multi_token"]["block"]["mixer"]["output"]).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 1}, "mixer.value_residual: needs at least two layers that have it, and there is one"),
        (
            {"exceptions": (Except(layers="1", mixer=GroupedQuery(num_heads=4, value_residual=IDENTITY)),)},
            "exceptions.0.mixer.value_residual: the first layer that has it shares 2 x 4 numbers a token and "
            "this one has 4 x 4; give them the same heads",
        ),
        ({"mixer": mixing(ValueResidual(first=0.0))}, "mixer.value_residual.first: 0 mixes nothing in"),
        ({"mixer": mixing(ValueResidual(own=0.0))}, "mixer.value_residual.own: 0 leaves the values"),
    ],
)
def test_what_is_refused(small, changes, message):
    with pytest.raises(UserError, match=message):
        check(small(**{"mixer": mixing(IDENTITY), **changes}), "")
