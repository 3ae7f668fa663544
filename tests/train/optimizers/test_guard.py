import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.options.tree import check
from train.optimizers.guard import Guard, Outliers, accept_step, new_guard_state
from train.state import StateConfig, init_state
from train.step import train_step


def judged(guard, pairs):
    """The decision about each (loss, gradient norm) in turn, and the state after them."""
    step = jax.jit(lambda state, loss, norm: accept_step(guard, state, loss, norm))
    state, verdicts = new_guard_state(guard), []
    for loss, norm in pairs:
        good, state = step(state, jnp.float32(loss), jnp.float32(norm))
        verdicts.append(bool(good))
    return verdicts, state


CALM = [(3.0, 1.0), (3.1, 1.1), (2.9, 0.9), (3.0, 1.0)]


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (3.0, math.nan), (math.inf, 1.0), (3.0, math.inf), (-math.inf, 1.0)])
def test_what_is_not_finite_is_skipped(bad):
    verdicts, state = judged(Guard(outliers=Outliers(sigma=9.0, window=3)), [(3.0, 1.0), bad, bad, (2.0, 0.5)])
    assert verdicts == [True, False, False, True]
    assert (int(state.accepted), int(state.skipped), int(state.consecutive)) == (2, 2, 0)
    np.testing.assert_array_equal(state.recent, [[3.0, 1.0], [2.0, 0.5], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("pair", "good"),
    [((3.3, 1.1), True), ((3.6, 1.0), False), ((3.0, 1.6), False), ((0.1, 0.1), True)],
)
def test_outliers_are_those_above_the_window(pair, good):
    # The window's losses are 3.0, 3.1, 2.9, 3.0: mean 3, deviation 0.0707; four of these are 0.283.
    assert judged(Guard(outliers=Outliers(sigma=5.0, window=4)), [*CALM, pair])[0][-1] is good


def test_outliers_are_judged_once_the_window_is_full():
    assert judged(Guard(outliers=Outliers(sigma=1.0, window=4)), [*CALM[:3], (90.0, 90.0)])[0][-1] is True
    assert judged(Guard(), [*CALM, (90.0, 90.0)])[0][-1] is True


def test_outliers_do_not_widen_the_window():
    """A thousand outliers of one size stay outliers: they never enter the window."""
    outliers = [(5.0, 1.0)] * 20
    verdicts, state = judged(Guard(outliers=Outliers(sigma=3.0, window=4)), [*CALM, *outliers])
    assert verdicts == [True] * 4 + [False] * 20
    np.testing.assert_allclose(state.recent, CALM, rtol=1e-6)
    assert int(state.consecutive) == int(state.skipped) == 20


def test_the_window_forgets():
    calmer = [(1.0, 0.1), (1.1, 0.1), (0.9, 0.1), (1.0, 0.1)]
    assert judged(Guard(outliers=Outliers(sigma=5.0, window=4)), [*CALM, *calmer, (2.0, 0.1)])[0][-1] is False


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(
        training__guard=Guard(outliers=Outliers(sigma=300.0, window=4)), schedule="Constant(peak=1e-2)"
    )


@pytest.fixture(scope="module")
def step(experiment):
    return jax.jit(lambda state, batch: train_step(experiment, ONE_DEVICE, state, batch))


def poisoned(batch):
    return batch | {"weights": np.full_like(batch["weights"], np.nan)}


def wild(batch):
    """A batch whose mean loss is a difference of huge sums, so that its gradient is huge but finite."""
    signs = np.where(np.arange(batch["weights"].size) % 2, 3000.0, -2999.0).reshape(batch["weights"].shape)
    return batch | {"weights": signs.astype(np.float32)}


def leaves(*trees):
    return [np.asarray(x) for x in jax.tree.leaves(trees)]


@pytest.mark.parametrize("spoil", [poisoned, wild])
def test_a_skipped_step_leaves_everything_but_the_counts(spoil, experiment, step, random_batch):
    state = init_state(StateConfig.of(experiment), 0)
    for n in range(4):
        state, metrics = step(state, random_batch(experiment, n))
    assert int(metrics["skipped"]) == 0
    after, metrics = step(state, spoil(random_batch(experiment, 4)))
    assert (int(metrics["skipped"]), int(metrics["consecutive"]), int(after.step)) == (1, 1, 5)
    if spoil is wild:
        assert np.isfinite(float(metrics["grad_norm"]))
    kept = [leaves(s.params, s.opt_state, s.guard.recent, s.key) for s in (state, after)]
    for before, now in zip(*kept, strict=True):
        np.testing.assert_array_equal(before, now)
    # And the next good step is the same as without the bad step before it.
    batch = random_batch(experiment, 6)
    with_bad, metrics = step(after, batch)
    assert (int(metrics["skipped"]), int(metrics["consecutive"])) == (1, 0)
    without_bad, _ = step(dataclasses.replace(state, step=after.step), batch)
    for one, other in zip(leaves(with_bad.params), leaves(without_bad.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(one != other) for one, other in zip(leaves(with_bad.params), leaves(state.params), strict=True))


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        (Guard(outliers=Outliers(sigma=0.0)), "outliers.sigma: must be above 0, got 0.0"),
        (Guard(outliers=Outliers(window=0)), "outliers.window: must be at least 1, got 0"),
        (Guard(max_consecutive=0), "max_consecutive: must be at least 1, got 0"),
    ],
)
def test_values_without_sense_are_refused(guard, words):
    with pytest.raises(UserError, match=words):
        check(guard)
