"""One run on 1, 2, 4 and 1 processes, with a process killed and a process asked to stop: the numbers of one process."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from launch.command.signals import EXIT_PREEMPTED
from tests.tiers import SWEEP
from train.loop import train
from train.process.watch import EXIT_PEER_LOST

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATIENCE = 300  # seconds after which a process that does not get there is a failure
NUM_STEPS = 24


class Job:
    """The processes of one command; each writes what it prints to its own file."""

    def __init__(self, count, devices, folder, *arguments):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        kept = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
        flags = " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])
        self.outputs, self.processes = [folder / f"{time.time_ns()}.{index}.txt" for index in range(count)], []
        for index, output in enumerate(self.outputs):
            together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={index}"]
            command = [sys.executable, "-m", "launch.train", *map(str, arguments), *(together if count > 1 else [])]
            with open(output, "wb") as file:
                environment = os.environ | {"XLA_FLAGS": flags}
                self.processes.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
                )

    def printed(self, index):
        return self.outputs[index].read_text(errors="replace")

    def wait(self):
        """The exit statuses; all processes have ended, or the test fails."""
        deadline = time.monotonic() + PATIENCE
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def wait_until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.printed(0)
            assert all(process.poll() is None for process in self.processes), [*map(self.printed, [0, 1])]
            time.sleep(0.005)


def lines(run):
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_step(run):
    return max((line["step"] for line in lines(run)), default=0)


def checkpoint(run):
    """The step of the last checkpoint and its arrays, read without the code that wrote them."""
    step = max(int(path.name) for path in (run / "checkpoints").iterdir())
    arrays = {}
    with ocp.PyTreeCheckpointer() as reader:
        for item in ("params", "rest"):
            folder = (run / "checkpoints" / str(step) / item).absolute()
            names = reader.metadata(folder).item_metadata.tree
            wanted = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
            found = reader.restore(folder, restore_args=wanted)
            arrays |= {f"{item}.{name}": np.asarray(x) for name, x in found.items()}
    return step, arrays


def assert_same_run(run, reference):
    """Equal up to the rounding of float32: sums over devices in another order."""
    (step, arrays), (expected_step, expected) = checkpoint(run), checkpoint(reference)
    assert (step, arrays.keys()) == (expected_step, expected.keys())
    for name, x in arrays.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert (run / "samples.txt").read_bytes() == (reference / "samples.txt").read_bytes()
    for line, other in zip(lines(run), lines(reference), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():  # counts, such as tokens, are equal: the same rows in the same order
            assert value == (
                pytest.approx(other[name], rel=1e-5, abs=1e-7) if isinstance(value, float) else other[name]
            )


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(training__num_steps=NUM_STEPS, checkpoints__every=6, evaluation__every=12, mesh__fsdp=4)


@pytest.fixture(scope="module")
def undisturbed(experiment, tmp_path_factory):
    """The run on 8 devices of one process."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(experiment, run, say=lambda line: None).state == "finished"
    return run


@pytest.mark.parametrize("counts", [(2,), pytest.param((4,), marks=SWEEP), pytest.param((2, 4), marks=SWEEP)])
def test_a_run_that_moves_from_one_process_to_several_and_back(counts, experiment, undisturbed, write_config, tmp_path):
    """Two are killed; as many, or four, go on and are stopped; four more may go on; one finishes."""
    assert jax.process_count() == 1
    run = tmp_path / "run"
    command = [f"--config={write_config(experiment, tmp_path / 'config.py')}", f"--run={run}"]
    train(experiment, run, hard_stop=2, say=lambda line: None)

    # Two processes, of which one is killed: the other ends, with the reason.
    job = Job(2, 4, tmp_path, *command)
    job.wait_until(lambda: last_step(run) >= 8 and (run / "checkpoints" / "6").is_dir())
    began = time.monotonic()
    job.processes[1].kill()
    assert job.wait() == [EXIT_PEER_LOST, -signal.SIGKILL]
    assert time.monotonic() - began < 60
    assert f"error: process 1 of 2 on {socket.gethostname()} has ended or does not answer" in job.printed(0)
    assert "Traceback" not in job.printed(0)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"

    # All again; one is asked to stop, and all do, after the same step.
    stopped_on, *more = counts
    job = Job(stopped_on, 8 // stopped_on, tmp_path, *command)
    job.wait_until(lambda: "resuming" in job.printed(0) and last_step(run) >= 8)
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.wait() == [EXIT_PREEMPTED] * stopped_on, job.printed(0)
    assert "SIGTERM in process 1; the same command continues from step" in job.printed(0)
    stopped = last_step(run)
    assert 8 <= stopped < NUM_STEPS
    assert checkpoint(run)[0] == stopped
    assert "training" not in job.printed(1)  # only process 0 prints

    # Others go on, and this process finishes.
    for count in more:
        stopped = min(stopped + 2, NUM_STEPS - 1)
        job = Job(count, 8 // count, tmp_path, *command, f"--hard_stop={stopped}")
        assert job.wait() == [0] * count, job.printed(0)
        assert last_step(run) == stopped
    said = []
    assert train(experiment, run, say=said.append).state == "finished"
    assert f"resuming {run} at step {stopped} of {NUM_STEPS}" in said
    assert_same_run(run, undisturbed)


def test_a_process_that_never_comes(experiment, write_config, tmp_path):
    config = write_config(experiment, tmp_path / "config.py")
    command = [sys.executable, "-m", "launch.train", f"--config={config}", f"--run={tmp_path / 'run'}"]
    command += ["--coordinator=127.0.0.1:0", "--num_processes=3", "--process_id=0", "--peer_timeout=0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: processes 1, 2 of 3 did not come to 127.0.0.1:0 within 0.5 s; start all")
    assert not (tmp_path / "run").exists()
