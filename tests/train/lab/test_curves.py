import dataclasses

import numpy as np
import pytest

from train.data.config import Data
from train.data.ramp import Ramp
from train.lab.curves import curve_of, peak_bytes_of, speed_of, training_seconds
from train.lab.results import Sizes
from train.report.run import load
from train.run.metrics import MetricsWriter

DATA = Data(batch_size=8, sequence_length=8)
SIZES = Sizes(parameters=10, active_parameters=10, flops_per_token=100.0, vocab_size=8, data=DATA)


@pytest.fixture
def data(tmp_path):
    """A function that reads a run of 40 steps: compiled in the first, 0.5 s each to step 20 and then 1 s; resumed."""

    def make(every=10, text=None):
        with MetricsWriter(tmp_path, tensorboard=False) as writer:
            for step in (1, 10, 20, 30, 40):
                timing = {"step_seconds": 30.0 if step == 1 else 0.5 if step <= 20 else 1.0, "peak_bytes": step}
                timing |= {"tokens_per_second": None if step == 1 else 6400 / step, "includes_compilation": step == 1}
                writer.train(step, {"loss": 5.0 - step / 10, "tokens": 60 * step})
                writer.throughput(step, timing)
                if step % every == 0:
                    writer.evaluation(step, {"loss": 5.5 - step / 10}, text)
        return load(tmp_path)

    return make


def test_costs_at_the_evaluations(data):
    curve = curve_of(data(), "loss", SIZES)
    assert curve.source == "evaluations"
    assert curve.steps.tolist() == [10, 20, 30, 40]
    assert curve.values.tolist() == [4.5, 3.5, 2.5, 1.5]
    assert curve.tokens.tolist() == [600, 1200, 1800, 2400]
    assert curve.flops.tolist() == [64_000, 128_000, 192_000, 256_000]
    # The step that was compiled counts as long as the median of the others, 0.75 s.
    assert curve.seconds.tolist() == [5.25, 10.25, 20.25, 30.25]
    assert curve.cost("seconds") is curve.seconds


def test_a_batch_that_grows_costs_less_before(data):
    """2 rows of 8 tokens in steps 1 to 15, 4 in steps 16 to 30, then 8."""
    grown = dataclasses.replace(SIZES, data=dataclasses.replace(DATA, ramp=Ramp(start=2, double_every=15)))
    run = data()
    assert curve_of(run, "loss", grown).flops.tolist() == [16_000, 40_000, 72_000, 136_000]
    assert curve_of(run, "loss", grown).tokens.tolist() == [600, 1200, 1800, 2400]  # as logged
    unlogged = dataclasses.replace(run, train=[], _series={})
    assert curve_of(unlogged, "loss", grown).tokens.tolist() == [160, 400, 720, 1360]


def test_the_curve_of_another_text(data):
    run = data(text="wiki")
    assert curve_of(run, "wiki/loss", SIZES).values.tolist() == [4.5, 3.5, 2.5, 1.5]
    assert curve_of(run, "books/loss", SIZES) is None


def test_few_evaluations_leave_the_training_loss(data):
    curve = curve_of(data(every=40), "loss", SIZES)
    assert (curve.source, len(curve.steps)) == ("training", 5)
    assert curve_of(data(every=40), "bits_per_byte", SIZES) is None


def test_a_model_that_is_not_known_has_no_flops(data):
    curve = curve_of(data(), "loss", None)
    assert np.isnan(curve.flops).all()
    assert np.isfinite(curve.tokens).all()


def test_speed_and_memory(data):
    run = data()
    assert speed_of(run) == pytest.approx(np.median([640, 320, 6400 / 30, 160]))
    assert peak_bytes_of(run) == 40


def test_nothing_is_made_up_where_nothing_was_timed(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.train(1, {"loss": 2.0})
        writer.evaluation(1, {"loss": 2.0})
        writer.evaluation(2, {"loss": 1.0})
        writer.evaluation(3, {"loss": 0.5})
    run = load(tmp_path)
    assert (speed_of(run), peak_bytes_of(run), len(training_seconds(run))) == (None, None, 0)
    curve = curve_of(run, "loss", SIZES)
    assert np.isnan(curve.seconds).all()
    assert curve.tokens.tolist() == [64, 128, 192]
