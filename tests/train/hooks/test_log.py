"""The times at which scalars are fetched; the counts are exact at any of them."""

import types

import jax
import numpy as np
import pytest

from model.errors import UserError
from train.hooks import log as module
from train.hooks.log import IN_FLIGHT, Log
from train.loop import train
from train.run.metrics import read_metrics, read_status
from train.run.time_spent import TimeSpent


class Clock:
    """Notes the steps that end."""

    def __init__(self):
        self.compiling, self.step, self.ends, self.waited = True, 0, [], []

    def start(self, step):
        self.step = step
        self.waiting_seconds = self.dispatch_seconds = self.first_step_seconds = 0.0

    def watch(self, results):
        number = int(results["number"])
        return lambda: self.waited.append(number) or float(number)

    def record_end(self, step, end_time, tokens):
        self.ends.append((step, tokens))

    def read(self):
        self.compiling, self.step = False, self.ends[-1][0]
        return {"includes_compilation": False, "tokens_per_second": 1.0, "mfu": None}


class Writer:
    """Notes the lines."""

    def __init__(self):
        self.lines, self.timed = [], []

    def train(self, step, values):
        self.lines.append((step, values["tokens"], int(values["skipped"])))

    def throughput(self, step, values):
        self.timed.append((step, values["tokens"]))


@pytest.fixture
def begun(tiny_experiment, monkeypatch):
    """A function that begins a log; returns its lines, its clock and the sizes of its fetches."""

    def begin(**changes):
        experiment, writer, clock, fetches = tiny_experiment(**changes), Writer(), Clock(), []

        def device_get(tree):
            fetches.append(len(tree))
            return jax.device_get(tree)

        monkeypatch.setattr(module, "jax", types.SimpleNamespace(device_get=device_get, Array=jax.Array))
        session = types.SimpleNamespace(experiment=experiment, metrics=writer, say=lambda line: None)
        log = Log(session, None, clock, TimeSpent(None, 1, 0.0))
        log.start(0, types.SimpleNamespace(update=lambda *_, **__: None))
        return log, writer, clock, fetches

    return begin


def scalars(number, skipped=0, consecutive=0):
    values = {"number": number, "loss": 1.0, "grad_norm": 1.0, "tokens": number, "skipped": skipped}
    return {name: np.asarray(value) for name, value in (values | {"consecutive": consecutive}).items()}


def test_scalars_are_fetched_when_a_line_is_due_and_a_step_late(begun):
    log, writer, _, fetches = begun(logging__every=5)
    after = {}
    for step in range(1, 13):
        log.dispatched(step, scalars(step))
        after[step] = list(fetches)
    # The first step of a session is timed by itself; then five at a time, once the step after them was dispatched.
    assert after[1] == []
    assert after[2] == after[5] == [1]
    assert after[6] == after[10] == [1, 4]
    assert after[11] == after[12] == [1, 4, 5]
    assert writer.lines == [(5, sum(range(6)), 0), (10, sum(range(11)), 0)]
    log.catch_up()
    assert fetches == [1, 4, 5, 2]
    log.time(12)
    assert writer.timed == [(1, 1), (5, 15), (10, 55), (12, 78)]
    assert log.tokens == 78


def test_every_step_ends_once_and_few_are_in_flight(begun):
    log, _, clock, _ = begun(logging__every=10)
    for step in range(1, 10):
        log.dispatched(step, scalars(step))
        in_flight = step - max(clock.waited, default=0)
        assert in_flight <= IN_FLIGHT, step
    log.catch_up()
    assert clock.ends == [(step, step) for step in range(1, 10)]


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_a_run_that_skips_is_noticed_whatever_the_log_has(every, begun):
    """At the latest when as many steps as may be skipped wait to be fetched; the steps it names are exact."""
    log, _, _, _ = begun(logging__every=every, training__guard__max_consecutive=4)
    given = []

    def run():
        for step in range(1, 40):
            given.append(step)
            consecutive = max(0, step - 11)
            log.dispatched(step, scalars(step, skipped=consecutive, consecutive=consecutive))

    with pytest.raises(UserError, match="steps 12 to 15 were all skipped"):
        run()
    assert given[-1] <= 15 + 4


def test_what_is_no_scalar_stays_on_the_devices(begun):
    log, writer, _, _ = begun(logging__every=1)
    for step in (1, 2):
        log.dispatched(step, scalars(step) | {"statistics": {"a": np.ones(3)}})
    assert writer.lines == [(1, 1, 0)]


def test_in_a_run_lines_and_totals_are_those_of_a_log_of_every_step(tiny_experiment, tmp_path, monkeypatch):
    """Also over a skipped step between two lines; and the loop fetches no more than lines ask for."""
    wild = {"training__num_steps": 12, "samples__prompts": (), "evaluation__every": 12, "checkpoints__every": 12}
    lines, fetches = {}, []

    def device_get(tree):
        fetches.append(len(tree))
        return jax.device_get(tree)

    monkeypatch.setattr(module, "jax", types.SimpleNamespace(device_get=device_get, Array=jax.Array))
    for every in (1, 4):
        fetches.clear()
        run = tmp_path / str(every)
        train(tiny_experiment(logging__every=every, **wild), run, say=lambda line: None)
        lines[every] = {line["step"]: line for line in read_metrics(run) if line["kind"] == "train"}
    assert list(lines[4]) == [4, 8, 12]
    assert all(lines[1][step] == line for step, line in lines[4].items())
    assert fetches == [1, 3, 4, 4]


def test_too_many_skipped_steps_stop_a_run_with_a_rare_log(tiny_experiment, tmp_path):
    experiment = tiny_experiment(
        optimizer="SGD()",
        schedule="Constant(peak=1e30)",
        training__clip_norm="None",
        training__guard__max_consecutive=3,
        training__num_steps=40,
        logging__every=100,
    )
    with pytest.raises(UserError, match=r"steps 2 to 4 were all skipped|steps 3 to 5 were all skipped"):
        train(experiment, tmp_path, say=lambda line: None)
    assert read_status(tmp_path)["state"] == "failed"
    assert read_status(tmp_path)["step"] < 10
