"""Each loss of pairs and its slopes against its paper's equation, in NumPy's float64."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.objectives.preference import DPO, IPO, KTO, ORPO, Pairs, SimPO, log_odds

RNG = np.random.default_rng(0)
LENGTHS = np.array([[3, 5], [1, 1], [8, 2], [4, 9]], float)
POLICY = -RNG.uniform(0.2, 2.0, (4, 2)) * LENGTHS  # sums over the tokens of each answer, in nats
REFERENCE = POLICY + RNG.normal(size=(4, 2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dpo(policy, option):
    h = option.beta * ((policy - REFERENCE)[:, 0] - (policy - REFERENCE)[:, 1])
    e = option.label_smoothing
    held_up = option.likelihood * policy[:, 0] / LENGTHS[:, 0]
    return -(1 - e) * np.log(sigmoid(h)) - e * np.log(sigmoid(-h)) - held_up, h


def ipo(policy, option):
    change = policy - REFERENCE
    change = change / LENGTHS if option.average else change
    h = change[:, 0] - change[:, 1]
    return (h - 1 / (2 * option.tau)) ** 2, h


def simpo(policy, option):
    mean = policy / LENGTHS
    margin = option.beta * mean[:, 0] - option.beta * mean[:, 1]
    return -np.log(sigmoid(margin - option.gamma)), margin


def orpo(policy, option):
    mean = policy / LENGTHS
    odds = np.exp(mean) / (1 - np.exp(mean))
    ratio = np.log(odds[:, 0] / odds[:, 1])
    return -mean[:, 0] - option.weight_of_odds * np.log(sigmoid(ratio)), ratio


def pairs_of(policy, change):
    columns = (*policy.T, *change.T, *LENGTHS.T)
    return Pairs(*(jnp.asarray(column, jnp.float32) for column in columns))


@pytest.mark.parametrize(
    ("option", "equation"),
    [
        (DPO(), dpo),
        (DPO(beta=0.5, label_smoothing=0.2), dpo),
        (DPO(likelihood=0.7), dpo),
        (IPO(), ipo),
        (IPO(tau=0.4, average=True), ipo),
        (SimPO(), simpo),
        (SimPO(beta=3.0, gamma=0.3), simpo),
        (ORPO(), orpo),
        (ORPO(weight_of_odds=1.5), orpo),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_losses_and_slopes_are_those_of_the_equations(option, equation):
    expected, margin = equation(POLICY, option)

    def loss(policy):
        pairs = pairs_of(np.zeros((4, 2)), np.zeros((4, 2)))._replace(
            chosen=policy[:, 0],
            rejected=policy[:, 1],
            chosen_change=policy[:, 0] - REFERENCE[:, 0].astype(np.float32),
            rejected_change=policy[:, 1] - REFERENCE[:, 1].astype(np.float32),
        )
        return option.of_pairs(pairs)

    found, found_margin = loss(jnp.asarray(POLICY, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(found_margin, margin, rtol=2e-4, atol=1e-5)
    slopes = jax.grad(lambda policy: loss(policy)[0].sum())(jnp.asarray(POLICY, jnp.float32))
    for place in np.ndindex(POLICY.shape):
        up, down = POLICY.copy(), POLICY.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        difference = (equation(up, option)[0].sum() - equation(down, option)[0].sum()) / 2e-6
        assert float(slopes[place]) == pytest.approx(difference, rel=1e-3, abs=1e-5), place


@pytest.mark.parametrize("label", [1, 0])
def test_kto_is_its_equation(label):
    option, z = KTO(beta=0.3, desirable=1.3, undesirable=0.7), 0.4
    change = np.linspace(-3, 3, 5)
    value = sigmoid(option.beta * (change - z)) if label else sigmoid(option.beta * (z - change))
    weight = option.desirable if label else option.undesirable
    expected = weight - weight * value  # lambda_y - v(x, y)
    arrays = jnp.asarray(change, jnp.float32), jnp.full(5, label, jnp.float32), jnp.float32(z)
    loss, margin = option.of_answers(*arrays)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(margin, (1 if label else -1) * option.beta * (change - z), rtol=1e-5, atol=1e-7)
    slopes = jax.grad(lambda d: option.of_answers(d, *arrays[1:])[0].sum())(arrays[0])
    sign = -1 if label else 1
    np.testing.assert_allclose(slopes, sign * weight * option.beta * value * (1 - value), rtol=1e-5)


def test_log_odds_keep_their_digits_and_slopes_at_both_ends():
    logp = np.array([-1e-5, -1e-3, -0.69, -0.7, -5.0, -80.0])
    p = np.exp(logp.astype(np.longdouble))
    expected = (np.log(p) - np.log1p(-p)).astype(float)
    x = jnp.asarray(logp, jnp.float32)
    np.testing.assert_allclose(log_odds(x), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(log_odds))(x), 1 / -np.expm1(logp), rtol=1e-3)
    certain = jnp.float32(0.0)  # an answer without doubt has infinite odds
    assert math.isfinite(float(log_odds(certain)))
    assert float(jax.grad(log_odds)(certain)) == 0


def test_the_loss_of_equal_models_is_ln_2():
    pairs = pairs_of(POLICY, np.zeros((4, 2)))
    loss, margin = DPO(label_smoothing=0.3).of_pairs(pairs)
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-7)
    np.testing.assert_array_equal(margin, 0)


# Of tests/assets/golden_logits/golden_dpo_correctness.json in AI-Hypercomputer/maxtext: after two steps of training.
# Its weights are drawn by that program and its tokenizer is not published with it, so that only the loss can be
# recomputed, from the log-probabilities that it stored.
MAXTEXT = (
    {"loss": 0.6573728919029236, "margin": 0.0728759765625, "chosen": -854.4208984375, "rejected": -530.0099487304688},
    {"loss": 0.6954630613327026, "margin": -0.004626465495675802, "chosen": -875.7848510742188,
     "rejected": -502.052978515625},
)  # fmt: skip


@pytest.mark.parametrize("stored", MAXTEXT, ids=["three columns", "two columns"])
def test_maxtexts_losses_follow_from_its_log_probabilities(stored):
    """The reference is what its margin says: h = margin / beta, beta = 0.1."""
    h = stored["margin"] / 0.1
    policy = np.array([[stored["chosen"], stored["rejected"]]])
    changes = np.array([[h, 0.0]])
    columns = (*policy.T, *changes.T, np.ones(1), np.ones(1))
    loss, margin = DPO(beta=0.1).of_pairs(Pairs(*(jnp.asarray(column, jnp.float32) for column in columns)))
    assert float(loss[0]) == pytest.approx(stored["loss"], abs=1.2e-7)  # a unit in the last place of float32
    assert float(margin[0]) == pytest.approx(stored["margin"], abs=1e-8)
    start, _ = DPO(beta=0.1).of_pairs(
        Pairs(*(jnp.asarray(c, jnp.float32) for c in (*policy.T, *np.zeros((2, 1)), [1], [1])))
    )
    assert float(start[0]) == pytest.approx(0.6931471824645996, abs=6e-8)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (DPO(beta=0.0), "objective.beta: must be above 0, got 0"),
        (DPO(label_smoothing=0.5), "objective.label_smoothing: expected a share from 0 to below 0.5"),
        (DPO(likelihood=-0.1), "objective.likelihood: must be 0 or more"),
        (IPO(tau=-1.0), "objective.tau: must be above 0"),
        (SimPO(gamma=-0.1), "objective.gamma: must be 0 or more"),
        (ORPO(weight_of_odds=0.0), "objective.weight_of_odds: must be above 0"),
        (KTO(undesirable=0.0), "objective.undesirable: must be above 0"),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_bad_options(option, words):
    with pytest.raises(UserError, match=words):
        check(option, "objective")


def test_every_field_has_a_default_and_changes_the_loss():
    """The liveness of each number: another value, another loss."""
    changes = {DPO(): {"beta": 0.3, "label_smoothing": 0.1, "likelihood": 0.5}, IPO(): {"tau": 0.3, "average": True},
               SimPO(): {"beta": 1.0, "gamma": 0.2}, ORPO(): {"weight_of_odds": 0.7}}  # fmt: skip
    pairs = pairs_of(POLICY, POLICY - REFERENCE)
    for option, fields in changes.items():
        for name, value in fields.items():
            other = dataclasses.replace(option, **{name: value})
            assert not np.allclose(option.of_pairs(pairs)[0], other.of_pairs(pairs)[0], rtol=1e-3), (option, name)
