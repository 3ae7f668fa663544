"""The time of a run by activity: two sessions by hand, and the lines of real runs."""

import time

import pytest

from train.loop import train
from train.run.time_spent import ACTIVITIES, TimeSpent, goodput, read_time_spent


def session(first, step, begin, **spent):
    """A session's last line; it began at `begin`, and its seconds are those of its activities."""
    spent = dict.fromkeys(ACTIVITIES, 0.0) | spent
    seconds = sum(spent.values())
    return {"session": begin, "first": first, "step": step, "time": begin + seconds, "seconds": seconds} | spent


def test_repeated_steps_and_the_time_between_sessions_are_lost():
    # 100 steps in 200 s, of which the next session does 25 again; it begins 30 s after the first one ended.
    one = session(0, 100, 1000, preparing=5, first_step=20, steps=200, evaluation=10, saving=15)
    two = session(75, 175, 1280, preparing=10, steps=190, waiting=10)
    found = goodput([one, two])
    assert found.repeated == 50
    assert found.stopped == 30
    assert found.activities["steps"] == 200 + 190 - 50
    assert found.total == 250 + 30 + 210
    assert found.share == pytest.approx(340 / 490)
    assert goodput([one]).share == pytest.approx(200 / 250)
    assert goodput([]) is None


def test_a_session_that_made_no_step_repeats_none():
    found = goodput([session(5, 5, 0, preparing=3), session(0, 10, 10, steps=4)])
    assert (found.repeated, found.stopped) == (0, 7)


def test_the_last_line_of_each_session_counts_and_steps_are_the_rest(tmp_path):
    began = time.monotonic() - 100
    with TimeSpent(tmp_path, 1, began) as spent:
        spent.begin_steps(3)
        with spent.on("evaluation"):
            time.sleep(0.02)
        spent.write(4, waiting=0.0, dispatch=0.0, first_step=0.0)
        spent.write(5, waiting=1.0, dispatch=2.0, first_step=3.0)
    with TimeSpent(tmp_path, 2, time.monotonic()) as spent:
        spent.write(6, waiting=0.0, dispatch=0.0, first_step=0.0)
    one, two = read_time_spent(tmp_path)
    assert (one["session"], one["first"], one["step"], two["session"]) == (1, 3, 5, 2)
    assert (one["waiting"], one["dispatch"], one["first_step"]) == (1, 2, 3)
    assert one["preparing"] >= 100
    assert 0.02 <= one["evaluation"] < 10
    assert sum(one[name] for name in ACTIVITIES) == pytest.approx(max(one["seconds"], sum(one[n] for n in ACTIVITIES)))


def test_a_process_that_writes_nothing(tmp_path):
    with TimeSpent(None, 1, time.monotonic()) as spent:
        spent.write(1, waiting=0.0, dispatch=0.0, first_step=0.0)
    assert read_time_spent(tmp_path) == []


def test_the_activities_of_a_run_are_all_of_its_time(tiny_run):
    (line,) = read_time_spent(tiny_run)
    assert (line["first"], line["step"]) == (0, 20)
    assert all(line[name] > 0 for name in ("preparing", "first_step", "evaluation", "saving", "other"))
    assert all(line[name] >= 0 for name in ACTIVITIES)
    assert sum(line[name] for name in ACTIVITIES) == pytest.approx(line["seconds"], rel=0.02)


def test_a_resumed_run_keeps_the_time_of_its_first_session(tiny_experiment, tiny_run, tmp_path):
    train(tiny_experiment(), tmp_path, hard_stop=7, say=lambda line: None)
    train(tiny_experiment(), tmp_path, hard_stop=9, say=lambda line: None)
    assert [(line["session"], line["first"], line["step"]) for line in read_time_spent(tmp_path)] == [
        (1, 0, 7),
        (2, 7, 9),
    ]
