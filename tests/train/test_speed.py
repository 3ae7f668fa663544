"""The speed of a step: its arithmetic, its program, the fields of its batches."""

import concurrent.futures
import dataclasses
import time

import numpy as np
import pytest

from model.cost import training_flops
from model.errors import UserError
from train.objectives.next_token import NextToken
from train.run.utilization import Utilization, peak_flops
from train.speed import Speed, measure

SPEED = Speed(
    device="NVIDIA H100 80GB HBM3",
    devices=2,
    parameters=10,
    active_parameters=10,
    step_seconds=(0.5, 0.1, 0.3, 0.2),
    tokens=1000,
    utilization=Utilization(5e11, 2 * peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")),
    trace_seconds=1.0,
    compile_seconds=2.0,
    memory={},
    losses=(2.0, 1.0),
)


def test_rates_follow_from_the_median_step():
    assert SPEED.seconds == 0.25
    assert SPEED.tokens_per_second == 4000
    assert SPEED.flops_per_second == 1e15
    np.testing.assert_allclose(SPEED.mfu, 1e15 / 989.5e12)
    np.testing.assert_allclose(SPEED.quartiles(), (0.175, 0.35))
    assert dataclasses.replace(SPEED, step_seconds=(0.5,)).quartiles() == (0.5, 0.5)
    assert dataclasses.replace(SPEED, utilization=Utilization(5e11, None)).mfu is None
    assert SPEED.as_json()["tokens_per_second"] == 4000


def test_the_lines_give_the_share_of_the_peak():
    lines = SPEED.lines()
    assert "  step                    250.0 ms  median; quartiles 175.0 and 350.0, n=4" in lines
    assert "  MFU                       101.1%  of 989.5 TFLOP/s a device" in lines


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_step_takes_its_own_time(asynchronous, tiny_experiment, monkeypatch):
    """Whether a step returns when it is done, or at once: 50 ms each, and no less for the last."""
    import train.speed as module

    class Slow:
        def __init__(self, *arguments):
            self.thread = concurrent.futures.ThreadPoolExecutor(1)

        def lower(self, *arguments):
            return self

        compile = lower

        def __call__(self, state, batch):
            done = self.thread.submit(time.sleep, 0.05)
            if not asynchronous:
                done.result()
            return state, {"loss": Pending(done)}

    monkeypatch.setattr(module, "compile_train_step", Slow)
    monkeypatch.setattr(module, "_memory", lambda step, device: {})
    speed = measure(tiny_experiment(data__path="no text", mesh="Mesh(fsdp=8)"), steps=4, warmup=1)
    assert min(speed.step_seconds) > 0.045


class Pending:
    """A number that is ready when a thread has ended."""

    def __init__(self, done):
        self.is_ready, self.block_until_ready = done.done, done.result

    def __float__(self):
        self.block_until_ready()
        return 1.0


def test_the_step_of_a_run_is_measured(tiny_experiment):
    experiment = tiny_experiment(data__path="no text", mesh="Mesh(fsdp=8)")
    seen = []
    speed = measure(experiment, steps=5, warmup=2, on_progress=seen.append)
    assert seen == list(range(8))
    assert len(speed.step_seconds) == 5
    assert min(speed.step_seconds) > 0
    assert speed.devices == 8
    assert speed.tokens == 8 * 16
    assert speed.flops == 8 * training_flops(experiment.model, 16)
    assert speed.mfu is None  # of a CPU
    assert speed.losses[1] < speed.losses[0] < 1.2 * np.log(257)  # two batches are soon known by heart
    assert speed.memory["arguments"] > 3 * 4 * speed.parameters / speed.devices  # parameters and two moments


def test_documents_are_told_where_the_model_tells_them_apart(tiny_experiment):
    together = tiny_experiment(data__cross_document_attention="True")
    apart = tiny_experiment(data__cross_document_attention="False")
    one, other = (measure(experiment, steps=1, warmup=1) for experiment in (together, apart))
    assert one.losses == pytest.approx(other.losses, rel=1e-5)  # each row is one document
    assert one.memory["arguments"] < other.memory["arguments"]


@dataclasses.dataclass(frozen=True)
class Preferences(NextToken):
    """An objective that reads a field of its own."""

    fields = ("tokens", "targets", "weights", "chosen")


def test_fields_that_random_tokens_do_not_have_are_refused(tiny_experiment):
    experiment = dataclasses.replace(tiny_experiment(), objective=Preferences())
    with pytest.raises(UserError, match="Preferences reads chosen, and random tokens have only tokens, targets"):
        measure(experiment)
