import math

import jax
import jax.numpy as jnp
import pytest

from model.errors import UserError
from model.options.tree import check
from train.schedules import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay, learning_rate

# Each row: the schedule, then step -> rate in a run of 100 steps, worked out by hand.
CASES = [
    (Constant(peak=0.5), {0: 0.5, 1: 0.5, 99: 0.5}),
    (Constant(peak=0.5, warmup_steps=4), {0: 0.1, 1: 0.2, 3: 0.4, 4: 0.5, 99: 0.5}),
    (Linear(peak=1.0), {0: 1.0, 25: 0.75, 50: 0.5, 99: 0.01, 100: 0.0}),
    (Linear(peak=1.0, final=0.2, warmup_steps=20), {0: 1 / 21, 19: 20 / 21, 20: 1.0, 60: 0.6, 100: 0.2}),
    (Cosine(peak=1.0), {0: 1.0, 50: 0.5, 25: 0.5 + math.sqrt(0.5) / 2, 100: 0.0}),
    (Cosine(peak=1.0, final=0.1, warmup_steps=9), {0: 0.1, 8: 0.9, 9: 1.0, 100: 0.1}),
    (Cosine(peak=2.0, final=1.0, warmup_steps=40), {70: 1.5, 60: 1.75, 80: 1.25}),  # cos 60 degrees is a half
    (InverseSquareRoot(peak=1.0, warmup_steps=16), {0: 1 / 17, 15: 16 / 17, 16: 1.0, 64: 0.5, 400: 0.2}),
    (InverseSquareRoot(peak=1.0), {0: 1.0, 1: 1.0, 4: 0.5, 99: 1 / math.sqrt(99)}),
    (WarmupStableDecay(peak=1.0, warmup_steps=3, decay_steps=20), {0: 0.25, 3: 1.0, 80: 1.0, 90: 0.5, 100: 0.0}),
    (WarmupStableDecay(peak=1.0, decay_steps=20, final=0.5), {0: 1.0, 79: 1.0, 90: 0.75, 100: 0.5}),
    (WarmupStableDecay(peak=1.0, decay_steps=25, shape="sqrt"), {75: 1.0, 79: 0.6, 84: 0.4, 91: 0.2, 100: 0.0}),
    (WarmupStableDecay(peak=1.0, decay_steps=40, shape="cosine"), {60: 1.0, 80: 0.5, 100: 0.0}),
]


@pytest.mark.parametrize(("schedule", "rates"), CASES)
def test_rates_by_hand(schedule, rates):
    for step, expected in rates.items():
        rate = learning_rate(schedule, step, 100)
        assert rate.dtype == jnp.float32
        assert float(rate) == pytest.approx(expected, abs=1e-6), step


@pytest.mark.parametrize("schedule", [case[0] for case in CASES])
def test_a_traced_step_gives_the_same(schedule):
    traced = jax.jit(lambda step: learning_rate(schedule, step, 100))
    for step in (0, 7, 55, 99):
        assert float(traced(jnp.int32(step))) == pytest.approx(float(learning_rate(schedule, step, 100)), abs=1e-6)


def test_warmup_never_reaches_nothing_or_more_than_the_peak():
    rates = [float(learning_rate(Cosine(peak=1.0, warmup_steps=10), step, 50)) for step in range(50)]
    assert 0 < rates[0] == min(rates[:11])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Constant(peak=0.0), "peak: the learning rate must be above 0, got 0.0"),
        (Cosine(peak=1e-3, warmup_steps=-1), "warmup_steps: must be 0 or more, got -1"),
        (Linear(peak=1e-3, final=1e-2), "final: must lie between 0 and peak=0.001, got 0.01"),
        (WarmupStableDecay(peak=1e-3, decay_steps=0), "decay_steps: must be at least 1, got 0"),
    ],
)
def test_values_without_sense_are_refused(schedule, words):
    with pytest.raises(UserError, match=words):
        check(schedule)
