import re
import time

import numpy as np

from tests.train.report.pages import NASTY
from train.report import summary
from train.report.run import Series, baseline_comparison, load, run_state, smooth, training_seconds
from train.run.metrics import MetricsWriter
from train.terminal.formatting import escape_unprintable


def test_a_spike_leaves_the_rest_of_a_smoothed_curve_alone():
    values = np.array([1e30, *np.full(99, 3.0)])
    np.testing.assert_allclose(smooth(values)[2:], 3.0)


def test_a_stalled_run(run, monkeypatch):
    with MetricsWriter(run, tensorboard=False) as writer:
        writer.status("running", 600, total_steps=800)
    assert run_state(load(run)) == ("running", "step 600 of 800")
    later = time.time() + 7500
    monkeypatch.setattr(time, "time", lambda: later)
    assert run_state(load(run))[0] == "stalled"
    assert "wrote nothing for 2h 05m" in run_state(load(run))[1]


def test_summary_is_golden(run):
    assert summary(run) == "\n".join(
        [
            f"{run}: finished, step 600 of 600",
            "  validation loss     2.0625  final evaluation",
            "  perplexity          7.8660  final evaluation",
            f"  bits per byte       1.5000  final evaluation; {escape_unprintable(NASTY)} 1.250, gzip -9 1.960",
            "  training loss       2.0000  mean of the last 12 logged steps",
            "  tokens trained on    38.4k  192 per parameter",
            "  parameters             200  200",
            "  training time       1m 00s",
            "  tokens per second      640  median; MFU 30.0%",
            "  samples that parse     75%  6 of 8",
        ]
    )


def test_the_step_that_was_compiled_is_in_no_median(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for session in (1, 2):
            for step, speed in ((1, 1.0), (2, 500.0), (3, 700.0)):
                line = {"tokens_per_second": speed, "mfu": speed / 1000, "includes_compilation": step == 1}
                writer.throughput(3 * session - 3 + step, line)
    assert re.search(r"tokens per second +600  median; MFU 60\.0%", summary(tmp_path))
    assert load(tmp_path).metric("mfu", "throughput").steps.tolist() == [2, 3, 5, 6]


def test_the_best_evaluation_is_named_when_it_was_not_the_last(run):
    (run / "evaluation.json").unlink()
    with MetricsWriter(run, tensorboard=False) as writer:
        writer.evaluation(700, {"loss": 2.5})
    assert re.search(r"validation loss +2\.5000  step 700; best 2\.1000 at 600", summary(run))


def test_the_comparison_is_sorted_with_this_run_in_it(run):
    assert baseline_comparison(load(run)) == [(NASTY, 1.25, False), ("this run", 1.5, True), ("gzip -9", 1.96, False)]


def test_training_time_over_sessions(tmp_path):
    """However long the first steps of a later one took."""
    sessions = {"goes_on": [[10, 20, 30, 40]], "soon": [[10, 20], [10, 20]], "slowly": [[10, 20], [30], [30, 40]]}
    for name, times in sessions.items():
        for session, seconds in enumerate(times):
            with MetricsWriter(tmp_path / name, tensorboard=False, session=session + 1) as writer:
                for value in seconds:
                    writer.throughput(100 * session + value, {"seconds": value})
        run = load(tmp_path / name)
        assert training_seconds(run) == sum(seconds[-1] for seconds in times)
        assert run.restarts().steps.tolist() == [100 * n + seconds[-1] for n, seconds in enumerate(times[:-1])]


def test_smoothing_is_centred_and_keeps_a_straight_line():
    line = np.arange(1000.0)
    smoothed = smooth(line)
    assert np.allclose(smoothed[:990], line[:990])
    noise = np.random.default_rng(0).normal(size=1000)
    assert np.std(smooth(noise)[100:]) < 0.35
    assert smooth(noise)[0] == noise[0]
    assert len(smooth(np.array([]))) == 0


def test_series_drops_what_is_not_finite():
    series = Series(steps=np.arange(4), values=np.array([1.0, np.nan, np.inf, 2.0])).finite()
    assert series.steps.tolist() == [0, 3]
