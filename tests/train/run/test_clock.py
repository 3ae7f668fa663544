"""The clock with a time of the test's own: intervals are from the end of a step to the end of another."""

import re
import threading
import time

import jax
import numpy as np
import psutil
import pytest

from train.evaluation.validation import SplitEvaluation
from train.hooks import programs
from train.loop import train
from train.optimizers.frozen import Frozen
from train.parallel.mesh import Mesh, make_mesh
from train.report import summary
from train.run.clock import Clock, peak_bytes
from train.run.metrics import read_metrics, read_throughput


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def at(monkeypatch):
    at = Time()
    monkeypatch.setattr(time, "monotonic", at)
    return at


@pytest.fixture
def clock(at, tiny_experiment):
    """A clock that has timed step 1, which took 50 seconds and ended at 150."""
    clock = Clock(tiny_experiment(), make_mesh(Mesh(), jax.devices()[:1]))
    clock.start(0)
    take_batch(clock, at, 0)
    at.now += 50
    clock.record_end(1, clock.watch(np.ones(()))(), 128)
    assert clock.compiling
    assert clock.read()["includes_compilation"]
    return clock


def take_batch(clock, at, seconds):
    with clock.waiting():
        at.now += seconds


class Result:
    """A scalar that a device is still computing: it is there when the test says so, at the time of the test."""

    def __init__(self):
        self.there = threading.Event()

    def is_ready(self):
        return self.there.is_set()

    def block_until_ready(self):
        self.there.wait(30)
        return self

    def ends(self, ended):
        """Makes it ready now, and waits until the clock has seen it."""
        self.there.set()
        return ended()


def test_mfu_counts_no_gradients_of_frozen_matrices(at, tiny_experiment, monkeypatch):
    """The embedding table, 257 x 32, is also the matrix of the logits."""
    monkeypatch.setattr("train.run.utilization.peak_flops", lambda *_: 1e9)
    flops_per_token = []
    for frozen in (Frozen(), Frozen(parts=("embedding",))):
        clock = Clock(tiny_experiment(training__frozen=frozen), make_mesh(Mesh(), jax.devices()[:1]))
        at.now += 1
        clock.record_end(1, at.now, 100)
        flops_per_token.append(clock.read()["mfu"] * 1e9 / 100)
    assert flops_per_token[0] - flops_per_token[1] == pytest.approx(2 * 257 * 32)


def test_where_a_step_is_computed_while_it_is_dispatched(clock, at):
    """Its results are read after the next step, and that time belongs to the next step."""
    pending = None
    for step in range(2, 6):
        take_batch(clock, at, 1)
        at.now += 9
        dispatched = clock.watch(np.ones(()))
        if pending is not None:
            clock.record_end(step - 1, pending(), 100)
            values = clock.read()
            assert (values["step_seconds"], values["tokens_per_second"]) == (10, 10)
            assert values["data_wait_fraction"] == 0.1
        pending = dispatched
    clock.record_end(5, pending(), 100)
    values = clock.read()
    assert (values["step_seconds"], values["tokens_per_second"], values["seconds"]) == (10, 10, 90)
    assert values["includes_compilation"] is False


def test_where_a_device_computes_on_after_the_dispatch(clock, at):
    """Steps of 20 seconds that follow one another, however early the host is."""
    take_batch(clock, at, 1)
    result = Result()
    pending = clock.watch(result)  # dispatched at 151, when the device was free
    for step in range(3, 6):
        take_batch(clock, at, 2)  # while the device works
        following = Result()
        dispatched = clock.watch(following)
        at.now = 151 + 20 * (step - 2)
        assert result.ends(pending) == at.now
        clock.record_end(step - 1, pending(), 100)
        values = clock.read()
        assert values["step_seconds"] == (21 if step == 3 else 20)
        assert values["data_wait_fraction"] == (pytest.approx(1 / 21) if step == 3 else 0)
        result, pending = following, dispatched


def test_a_device_that_waits_for_data(clock, at):
    """Steps of 2 seconds, and 10 for each batch: reading results late makes no step longer, and the last no shorter."""
    take_batch(clock, at, 10)
    result = Result()
    pending = clock.watch(result)
    for step in (3, 4, 5):
        with clock.waiting():
            at.now += 2
            result.ends(pending)
            at.now += 8
        following = Result()
        dispatched = clock.watch(following)
        clock.record_end(step - 1, pending(), 100)
        values = clock.read()
        assert values["step_seconds"] == (12 if step == 3 else 10)
        assert values["data_wait_fraction"] == pytest.approx(10 / 12 if step == 3 else 0.8)
        result, pending = following, dispatched
    at.now += 2
    result.ends(pending)
    clock.record_end(5, pending(), 100)
    assert clock.read()["step_seconds"] == 10


def test_pauses_are_no_part_of_an_interval(clock, at):
    for seconds in (10, 0):  # between two readings, and right after one
        take_batch(clock, at, 1)
        at.now += 9
        clock.record_end(2, at(), 100)
        with clock.paused():
            at.now += 1000
        at.now += seconds
        if seconds:
            clock.record_end(3, at(), 100)
        values = clock.read()
        assert values["tokens_per_second"] == 10
        clock.step = 1


def test_tokens_are_those_of_the_batches(clock, at):
    for step, tokens in ((2, 30), (3, 50)):
        at.now += 4
        clock.record_end(step, at(), tokens)
    values = clock.read()
    assert (values["tokens_per_second"], values["step_seconds"]) == (10, 4)


# ------------------------------------------------------------------------------------------------------ in the loop


@pytest.fixture
def steps_of_ten_seconds(at, monkeypatch):
    """Training in which a step takes ten seconds, the first step a hundred more, and an evaluation a thousand."""
    compile_train_step, evaluate, first = programs.compile_train_step, SplitEvaluation.__call__, [100]

    def compiled(*arguments):
        step_fn = compile_train_step(*arguments)

        def step(state, batch):
            out = jax.block_until_ready(step_fn(state, batch))
            at.now += 10 + (first.pop() if first else 0)
            return out

        return step

    def evaluated(self, state):
        at.now += 1000
        return evaluate(self, state)

    monkeypatch.setattr(programs, "compile_train_step", compiled)
    monkeypatch.setattr(SplitEvaluation, "__call__", evaluated)


def test_every_line_is_right_the_last_one_too(tiny_experiment, steps_of_ten_seconds, tmp_path):
    experiment = tiny_experiment(training__num_steps=6, evaluation__every=3, samples__prompts=())
    train(experiment, tmp_path, say=lambda line: None)
    lines = read_throughput(tmp_path)
    assert [line["step_seconds"] for line in lines] == [110, 10, 10, 10, 10, 10]
    assert [line["tokens_per_second"] for line in lines[1:]] == [12.8] * 5
    assert [line["includes_compilation"] for line in lines] == [True] + [False] * 5
    assert [line["tokens"] for line in lines] == [128 * step for step in range(1, 7)]
    assert re.search(r"tokens per second +12\.8  median", summary(tmp_path))


def test_the_first_step_is_an_interval_of_its_own(tiny_experiment, steps_of_ten_seconds, tmp_path, capsys):
    experiment = tiny_experiment(logging__every=4, samples__prompts=(), training__num_steps=8)
    train(experiment, tmp_path, hard_stop=6, say=lambda line: None)
    lines = read_throughput(tmp_path)
    assert [(line["step"], line["step_seconds"]) for line in lines] == [(1, 110), (4, 10), (6, 10)]
    assert [line["step"] for line in read_metrics(tmp_path) if line["kind"] == "train"] == [4]
    assert "12.8 tokens/s" in capsys.readouterr().err


def test_padding_is_no_token(tiny_experiment, steps_of_ten_seconds, tmp_path):
    """Documents of 11 bytes and an end in rows of 16: 12 targets a row, 96 a step, 4 of 16 places padded."""
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "document {i:02d}"}}\n' for i in range(60)))
    experiment = tiny_experiment(
        data__path=str(tmp_path / "text.jsonl"),
        data__validation="HeldOutDocuments(similarity=None)",
        data__packing="BestFit()",
        samples__prompts=(),
        training__num_steps=5,
        logging__every=2,
    )
    run = tmp_path / "run"
    train(experiment, run, hard_stop=3, say=lambda line: None)
    assert re.search(r"tokens trained on +288 ", summary(run))
    train(experiment, run, say=lambda line: None)  # step 3 is in no line of the log
    training = [line for line in read_metrics(run) if line["kind"] == "train"]
    assert [(line["step"], line["tokens"], line["padding"]) for line in training] == [
        (2, 192, 0.25),
        (4, 384, 0.25),
        (5, 480, 0.25),
    ]
    assert [line["tokens_per_second"] for line in read_throughput(run)[1:3]] == [9.6, 9.6]
    assert re.search(r"tokens trained on +480 ", summary(run))
    assert re.search(r"padding +25\.0% ", summary(run))


class Device:
    platform = "gpu"

    def __init__(self, used):
        self.used = used

    def memory_stats(self):
        return None if self.used is None else {"peak_bytes_in_use": self.used}


def test_the_peak_of_memory_is_that_of_the_fullest_device_or_of_the_process():
    assert peak_bytes([Device(10), Device(30), Device(20)]) == 30
    assert peak_bytes([Device(None)]) is None
    used = psutil.Process().memory_info().rss
    assert 0.5 * used < peak_bytes(jax.devices()) < 100 * used


def test_the_peak_is_written(tiny_run):
    assert all(line["peak_bytes"] > 1e7 for line in read_throughput(tiny_run))
