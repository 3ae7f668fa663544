import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.context import Context
from model.errors import UserError
from model.feedforward.balance import BalanceLoss, LoadBias, record_balance
from model.feedforward.dispatch import Capacity
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.feedforward.routing import SigmoidRouter, SoftmaxRouter, route
from model.layers import Except
from model.options.tree import check
from model.transformer import forward

E, R = 5, 2


@pytest.fixture(scope="module")
def case():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 8, E)).astype(np.float32)
    counted = (draw.random((3, 8)) < 0.6).astype(np.float32)
    counted[2] = 0  # a row of padding
    return logits, counted


def observed(logits, counted, router=SoftmaxRouter(), dropped=None, balance=None, z_loss=0.0):
    context = Context(index_BT=jnp.zeros((1, 1)), weights_BT=None if counted is None else jnp.asarray(counted))
    logits = jnp.asarray(logits)
    record_balance(context, route(router, logits, R), logits, dropped, balance, z_loss)
    return context


def tokens_of(case):
    """Yields, for the tokens of each row that count, their shares, chosen experts and logsumexps."""
    logits, counted = case
    for row in range(len(logits)):
        some = logits[row][counted[row] > 0].astype(np.float64)
        exp = np.exp(some)
        yield exp / exp.sum(1, keepdims=True), np.argsort(-some, axis=1)[:, :R], np.log(exp.sum(1))


def loss_by_hand(shares, chosen):
    loads = np.bincount(chosen.ravel(), minlength=E) / chosen.size
    return E * float(loads @ shares.mean(axis=0))


def test_balance_over_the_batch(case):
    shares, chosen, _ = (np.concatenate(parts) for parts in zip(*tokens_of(case), strict=True))
    context = observed(*case, balance=BalanceLoss(coefficient=0.3))
    expected = 0.3 * len(shares) * loss_by_hand(shares, chosen)
    assert set(context.losses) == {"balance_loss"}
    assert float(context.losses["balance_loss"]) == pytest.approx(expected, rel=1e-5)


def test_balance_over_each_sequence(case):
    rows = [(shares, chosen) for shares, chosen, _ in tokens_of(case) if len(shares)]
    assert len(rows) == 2
    context = observed(*case, balance=BalanceLoss(coefficient=0.3, over="sequence"))
    expected = sum(0.3 * len(shares) * loss_by_hand(shares, chosen) for shares, chosen in rows)
    assert float(context.losses["balance_loss"]) == pytest.approx(expected, rel=1e-5)


def test_even_experts_have_the_least_loss_whatever_top_k(case):
    """Each token gives one pair of experts the same high score; all pairs occur equally often."""
    logits = np.zeros((1, 10, E), np.float32)
    for token in range(10):
        logits[0, token, [token % E, (token + 1) % E]] = 9.0
    loss = observed(logits, np.ones((1, 10)), balance=BalanceLoss(coefficient=1.0)).losses["balance_loss"]
    assert float(loss) / 10 == pytest.approx(1, rel=1e-5)
    skewed = observed(np.abs(logits[:, :1]), np.ones((1, 1)), balance=BalanceLoss(coefficient=1.0))
    assert float(skewed.losses["balance_loss"]) == pytest.approx(E / 2, rel=1e-2)


def test_sigmoid_scores_are_shares_of_their_sum(case):
    logits, counted = case
    scores = 1 / (1 + np.exp(-logits[counted > 0].astype(np.float64)))
    chosen = np.argsort(-scores, axis=1)[:, :R]
    context = observed(*case, router=SigmoidRouter(), balance=BalanceLoss(coefficient=1.0))
    expected = len(scores) * loss_by_hand(scores / scores.sum(1, keepdims=True), chosen)
    assert float(context.losses["balance_loss"]) == pytest.approx(expected, rel=1e-5)


def test_z_loss(case):
    expected = 0.2 * sum((z**2).sum() for _, _, z in tokens_of(case))
    context = observed(*case, z_loss=0.2)
    assert set(context.losses) == {"router_z_loss"}
    assert float(context.losses["router_z_loss"]) == pytest.approx(expected, rel=1e-5)


def test_what_is_measured(case):
    shares, chosen, _ = (np.concatenate(parts) for parts in zip(*tokens_of(case), strict=True))
    _, counted = case
    dropped = np.random.default_rng(1).random((3, 8, R)) < 0.5
    measured = observed(*case, dropped=jnp.asarray(dropped)).measurements
    assert set(measured) == {"tokens", "load", "entropy", "dropped"}
    assert float(measured["tokens"]) == len(shares)
    np.testing.assert_array_equal(measured["load"], np.bincount(chosen.ravel(), minlength=E))
    assert float(measured["entropy"]) == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
    assert float(measured["dropped"]) == dropped[counted > 0].sum()
    assert "dropped" not in observed(*case).measurements


def test_nothing_is_computed_when_no_token_is_counted(case):
    context = observed(case[0], None, balance=BalanceLoss(coefficient=1.0), z_loss=1.0)
    assert context.losses == context.measurements == {}


OPTION = Experts(
    num_experts=6,
    top_k=2,
    expert=Gated(width=8),
    balance_loss=BalanceLoss(coefficient=0.1),
    router_z_loss=0.01,
)


def test_the_model_sums_losses_over_layers_and_keeps_loads_apart(small, drawn, tokens):
    config = small(
        num_layers=4,
        ffn=OPTION,
        exceptions=(
            Except(layers="0", ffn=Gated(width=24)),
            Except(layers="3", ffn=dataclasses.replace(OPTION, dispatch=Capacity(factor=0.5))),
        ),
    )
    params, counted = drawn(config), (np.arange(24) % 3 > 0).reshape(2, 12).astype(np.float32)
    collect = jax.jit(
        lambda params: _besides(forward(config, params, tokens, weights_BT=counted, taps=["router_logits"]))
    )
    losses, measured, taps = collect(params)
    assert {name: found["load"].shape for name, found in measured.items()} == {"1": (2, 6), "3": (1, 6)}
    for found in measured.values():
        np.testing.assert_array_equal(found["load"].sum(axis=1), 2 * counted.sum())
    assert set(measured["3"]) == {"tokens", "load", "entropy", "dropped"}
    expected = {"balance_loss": 0.0, "router_z_loss": 0.0}
    for logits in taps["router_logits"]:
        one = observed(logits, counted, balance=OPTION.balance_loss, z_loss=OPTION.router_z_loss)
        expected = {name: expected[name] + float(loss) for name, loss in one.losses.items()}
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
    uncounted = jax.eval_shape(lambda params: _besides(forward(config, params, tokens)), params)
    assert uncounted == ({}, {}, {})


def _besides(output):
    return output.losses, output.measurements, output.taps


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (BalanceLoss(coefficient=0.0), "coefficient: must be above 0, got 0.0; use balance_loss=None for no loss"),
        (LoadBias(rate=-0.1), "rate: must be 0 or more, got -0.1"),
    ],
)
def test_values_without_sense_are_refused(option, words):
    with pytest.raises(UserError, match=words):
        check(option)
