"""The loss of PPO against the equations of the papers in NumPy float64, and its gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.objectives.ppo import PPO
from train.objectives.rollout_options import Reward

DRAW = np.random.default_rng(0)
LOGPROB, OLD = -np.abs(DRAW.normal(size=(2, 4, 6))).astype(np.float32)
VALUE, VALUE_OLD, RETURN, GAIN = DRAW.normal(size=(4, 4, 6)).astype(np.float32)
NUMBERS = {name: getattr(PPO(), name) for name in ("clip", "value_clip", "value_weight")}


def batch(first=0.0):
    fields = {"old": OLD, "advantages": GAIN, "values": VALUE_OLD, "returns": RETURN}
    return fields | {"first": np.full((4, 1), first, np.float32)}


def expected(logprob, value, clip, value_clip, value_weight):
    loss = np.zeros(logprob.shape)
    for at in np.ndindex(*logprob.shape):
        ratio, gain = np.exp(logprob[at] - float(OLD[at])), float(GAIN[at])
        policy = -min(ratio * gain, min(max(ratio, 1 - clip), 1 + clip) * gain)
        error = (value[at] - float(RETURN[at])) ** 2
        if value_clip is not None:
            old = float(VALUE_OLD[at])
            near = old + min(max(value[at] - old, -value_clip), value_clip)
            error = max(error, (near - float(RETURN[at])) ** 2)
        loss[at] = policy + value_weight * error / 2
    return loss


@pytest.mark.parametrize(
    "changes", [{}, {"clip": 0.4}, {"value_clip": None}, {"value_clip": 1.0}, {"value_weight": 2.0}]
)
def test_the_loss_of_a_token_and_its_gradient(changes):
    """Each changed number changes the loss too."""
    objective, numbers = PPO(**changes), NUMBERS | changes
    found = objective.terms(jnp.asarray(LOGPROB), jnp.asarray(VALUE), batch())
    exact = LOGPROB.astype(np.float64), VALUE.astype(np.float64)
    np.testing.assert_allclose(found["loss"], expected(*exact, **numbers), rtol=1e-5, atol=1e-6)
    assert not changes or not np.allclose(found["loss"], expected(*exact, **NUMBERS), rtol=1e-3)
    assert 0 < found["clip_share"].mean() < 1
    assert (0 < found["value_clip_share"].mean() < 1) == (objective.value_clip is not None)

    def total(logprob, value):
        return jnp.sum(objective.terms(logprob, value, batch())["loss"])

    gradients, step = jax.grad(total, (0, 1))(jnp.asarray(LOGPROB), jnp.asarray(VALUE)), 1e-6
    for k, gradient in enumerate(gradients):
        more, less = ([x + sign * step * (i == k) for i, x in enumerate(exact)] for sign in (1, -1))
        wanted = (expected(*more, **numbers) - expected(*less, **numbers)) / (2 * step)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_the_first_update_has_a_ratio_of_exactly_one_and_no_clipped_value():
    found = PPO().terms(jnp.asarray(LOGPROB), jnp.asarray(VALUE), batch(first=1.0))
    np.testing.assert_array_equal(found["ratio"], 1)
    np.testing.assert_array_equal(found["clip_share"], 0)
    np.testing.assert_array_equal(found["value_loss"], np.square(VALUE - RETURN) / 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clip": 0.0}, "clip"),
        ({"value_clip": 0.0}, "value_clip"),
        ({"value_weight": 0.0}, "value_weight"),
        ({"kl": -0.1}, "kl"),
        ({"gamma": 1.1}, "gamma"),
        ({"gae_lambda": -0.1}, "gae_lambda"),
        ({"reward": Reward(function="exactly")}, "reward.function"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(changes, named):
    with pytest.raises(UserError, match=f"objective.{named}"):
        check(dataclasses.replace(PPO(), **changes), "objective")
