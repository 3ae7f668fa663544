"""The loss of GRPO and its corrections against the equations of the papers in NumPy float64, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.options.tree import check
from tests.model.conftest import drawn_params
from train.objectives.next_token import NextToken
from train.objectives.policy import GRPO
from train.objectives.rollout_options import Rollouts

DRAW = np.random.default_rng(0)
LOGPROB, OLD, REFERENCE = -np.abs(DRAW.normal(size=(3, 4, 6))).astype(np.float32)
GAIN = DRAW.normal(size=(4, 1)).astype(np.float32)


def batch(first=0.0):
    return {"old": OLD, "reference": REFERENCE, "advantages": GAIN, "first": np.full((4, 1), first, np.float32)}


def expected(logprob, low, high, kl):
    """Equations 3 and 4 of DeepSeekMath, token by token."""
    loss = np.zeros(logprob.shape)
    for i, t in np.ndindex(*logprob.shape):
        ratio, gain = np.exp(logprob[i, t] - float(OLD[i, t])), float(GAIN[i, 0])
        q = np.exp(float(REFERENCE[i, t]) - logprob[i, t])
        loss[i, t] = -min(ratio * gain, min(max(ratio, 1 - low), 1 + high) * gain) + kl * (q - np.log(q) - 1)
    return loss


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("high", [None, 0.28])
def test_the_loss_of_a_token(high, kl):
    found = GRPO(clip_high=high, kl=kl).terms(jnp.asarray(LOGPROB), batch())
    wanted = expected(LOGPROB.astype(np.float64), 0.2, 0.2 if high is None else high, kl)
    np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5, atol=1e-6)
    ratio = np.exp(LOGPROB.astype(np.float64) - OLD)
    clipped = np.where(GAIN > 0, ratio > 1 + (high or 0.2), ratio < 0.8)
    assert 0 < clipped.mean() < 1
    np.testing.assert_array_equal(found["clip_share"], clipped)


def test_its_gradient():
    objective, step = GRPO(clip_high=0.28, kl=0.3), 1e-6
    found = jax.grad(lambda x: jnp.sum(objective.terms(x, batch())["loss"]))(jnp.asarray(LOGPROB))
    exact = LOGPROB.astype(np.float64)
    wanted = (expected(exact + step, 0.2, 0.28, 0.3) - expected(exact - step, 0.2, 0.28, 0.3)) / (2 * step)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_first_update_has_a_ratio_of_exactly_one_and_the_plain_gradient_of_the_policy():
    found = GRPO().terms(jnp.asarray(LOGPROB), batch(first=1.0))
    np.testing.assert_array_equal(found["ratio"], 1)
    np.testing.assert_array_equal(found["clip_share"], 0)
    gradient = jax.grad(lambda x: jnp.sum(GRPO().terms(x, batch(first=1.0))["loss"]))(jnp.asarray(LOGPROB))
    np.testing.assert_array_equal(gradient, np.broadcast_to(-GAIN, gradient.shape))


def test_importance_weights_multiply_the_policy_loss_and_leave_the_distance():
    weights = DRAW.uniform(0, 2, (4, 6)).astype(np.float32)
    plain, weighted = (GRPO(kl=0.3).terms(LOGPROB, rows) for rows in (batch(), batch() | {"importance": weights}))
    expected = weights * (plain["loss"] - 0.3 * plain["kl"]) + 0.3 * plain["kl"]
    np.testing.assert_allclose(weighted["loss"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(weighted["ratio"], plain["ratio"])


@pytest.mark.parametrize(("mean", "divisor"), [("sequence", 2), ("token", 5), ("constant", 2 * 7)])
def test_the_divisors_of_the_means(mean, divisor):
    """Of two rollouts that count, with three tokens and two; a third one is left out."""
    weights = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], np.float32)
    drawn = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    objective = GRPO(mean=mean, rollouts=Rollouts(max_tokens=7))
    assert float(objective.weight({"weights": weights})) == divisor
    assert int(objective.tokens({"drawn": drawn})) == 6


def test_taps_and_numbers_are_means_over_the_tokens_that_count_and_dropout_is_off(tiny_experiment):
    """Divided by the weight, as a step does, taps are those of next-token prediction, which is given no dropout."""
    changes = {"model__num_layers": 1, "model__width": 16, "model__ffn__width": 16, "model__vocab_size": 31}
    model = tiny_experiment(**changes, model__dropout="Dropout(residual=0.5)").model
    weights = np.array([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    tokens, targets = DRAW.integers(0, model.vocab_size, (2, 4, 6)).astype(np.int32)
    rows = batch(first=1.0) | {"tokens": tokens, "targets": targets, "weights": weights}
    taps = ("stream_squares", "score_sizes", "log_z")
    objectives = {"sequence": GRPO(kl=0.1), "constant": GRPO(kl=0.1, mean="constant")}

    @jax.jit
    def sums(params, key):
        given = {"layout": ONE_DEVICE, "taps": taps}
        losses = [one.loss(model, params, rows, dropout_key=key, **given)[1] for one in objectives.values()]
        return losses, NextToken().loss(model, params, rows, dropout_key=None, **given)[1]

    found, expected = sums(drawn_params(model), jax.random.key(1))
    assert float(expected.taps["log_z"]) != 0
    for objective, of_objective in zip(objectives.values(), found, strict=True):
        weight = float(objective.weight(rows))
        assert of_objective.taps.keys() == set(taps)
        for name in taps:
            np.testing.assert_allclose(of_objective.taps[name] / weight, expected.taps[name] / 8, rtol=1e-5)
        np.testing.assert_allclose(of_objective.maxima["score_sizes"], expected.maxima["score_sizes"], rtol=1e-6)
        assert float(of_objective.numbers["ratio"]) / weight == 1
        assert float(of_objective.loss) != 0


@pytest.mark.parametrize(
    ("objective", "named"),
    [
        (GRPO(clip=1.0), "clip"),
        (GRPO(clip_high=0.0), "clip_high"),
        (GRPO(kl=-1.0), "kl"),
        (GRPO(overlong=65), "overlong"),
        (GRPO(rollouts=Rollouts(temperature=0.0)), "rollouts.temperature"),
        (GRPO(rollouts=Rollouts(minibatches=0)), "rollouts.minibatches"),
        (GRPO(rollouts=Rollouts(behind=1)), "rollouts.importance_cap"),
        (GRPO(rollouts=Rollouts(importance_cap=0.0)), "rollouts.importance_cap"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(objective, named):
    with pytest.raises(UserError, match=named):
        check(objective, "objective")
