"""Spikes among numbers: which steps are found, whatever the stops in between."""

import math
import statistics

import numpy as np
import pytest

from tests.train.config_files import refusal
from train.optimizers.spikes import Height, SpikeDetector, Spikes

QUIET = Spikes(window=8, deviations=6.0)


def found(values, option=QUIET, every=1, start=0, norms=None):
    """The spikes among losses from step `start` + 1 on; the lines before `start` are read back, as a run does."""
    detector, spikes = SpikeDetector(option), []
    norms = norms or [1.0] * len(values)
    for step, (loss, norm) in enumerate(zip(values, norms, strict=True), start=1):
        line = {"loss": loss, "grad_norm": norm}
        if step > start and (heights := detector.spike_at(step, line)) is not None:
            spikes.append((step, heights))
        if step % every == 0:
            detector.add_line(line)
    return spikes


def noise(length, seed=0):
    return [float(x) for x in 3 + 0.1 * np.random.default_rng(seed).normal(size=length)]


def test_noise_has_no_spikes_and_a_jump_is_one():
    values = noise(400)
    assert found(values, Spikes()) == []
    values[200] = 5.0
    ((step, heights),) = found(values, Spikes())
    assert step == 201
    before = values[168:200]
    median = statistics.median(before)
    deviation = 1.4826 * statistics.median(abs(x - median) for x in before)
    assert heights["loss"] == Height(5.0, median, deviation)
    assert heights["loss"].deviations == pytest.approx((5.0 - median) / deviation)
    assert heights["grad_norm"].deviations == 0.0


def test_a_gradient_norm_alone_is_a_spike_and_a_low_value_is_none():
    values = noise(40)
    values[30] = 0.5
    norms = [1.0] * 40
    norms[35] = 1.2  # equal norms have the least deviation, 1% of the median
    assert [step for step, _ in found(values, norms=norms)] == [36]


def test_values_that_are_not_finite_are_spikes_from_the_first_step_on_and_no_part_of_the_median():
    values = [math.nan, *noise(30)]
    values[20] = math.inf
    steps = found(values)
    assert [step for step, _ in steps] == [1, 21]
    assert all(heights["loss"].deviations == math.inf for _, heights in steps)
    assert steps[1][1]["loss"].median == statistics.median(values[12:20])


def test_the_steps_after_a_spike_belong_to_it():
    values = noise(60)
    values[30:] = [9.0] * 30  # a jump that stays: the median follows it
    assert [step for step, _ in found(values)] == [31]
    values = noise(60)
    values[30] = values[34] = values[39] = 9.0
    assert [step for step, _ in found(values)] == [31, 40]


@pytest.mark.parametrize("start", [1, 32, 37, 39, 45])
def test_a_run_that_continues_finds_the_same(start):
    values = noise(80, seed=1)
    values[38] = values[60] = 7.0
    whole = found(values, every=3)
    assert [step for step, _ in whole] == [39, 61]
    assert found(values, every=3, start=start) == [spike for spike in whole if spike[0] > start]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("deviations=0.0", "spikes.deviations: must be above 0, got 0.0"),
        ("window=2", "spikes.window: must be at least 3"),
        ("keep=0", "spikes.keep: must be at least 1, or spikes=None"),
        ("states=17", "spikes.states: must be from 0 to spikes.keep=16, got 17"),
        ("states=-1", "spikes.states: must be from 0 to spikes.keep=16, got -1"),
    ],
)
def test_invalid_values_are_named(change, words, config):
    assert words in refusal(config(), [f"spikes.{change}"])
