"""Bit-exact resume: a run whose process was killed again and again ends as one that nothing happened to."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.command.signals import EXIT_PREEMPTED
from tests.tiers import representatives

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds after which a process that does not get there is a failure


@pytest.fixture(scope="module")
def config(tiny_experiment, write_config, tmp_path_factory):
    """A run of 200 steps of about a millisecond that saves every 20."""
    experiment = tiny_experiment(
        training__num_steps=200,
        checkpoints__every=20,
        evaluation__every=100,
        model__dropout="Dropout(residual=0.1)",
        samples__prompts=(),
    )
    return write_config(experiment, tmp_path_factory.mktemp("config") / "long.py")


def start(config, run):
    """The command, begun on one device; what it prints is added to run.txt beside the folder."""
    arguments = [sys.executable, "-m", "launch.train", f"--config={config}", f"--run={run}"]
    # Programs of its own: a process that is killed while it stores one leaves half of it, which the next one removes.
    programs = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).with_name("xla-of-killed-runs")
    one_device = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    environment = os.environ | {"XLA_FLAGS": one_device, "JAX_COMPILATION_CACHE_DIR": str(programs)}
    with open(f"{run}.txt", "ab") as output:
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=output)


def printed(run):
    return pathlib.Path(f"{run}.txt").read_text()


def finish(config, run):
    assert start(config, run).wait(PATIENCE) == 0, printed(run)


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def half_written(run):
    return list((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def whole(run):
    return [path for path in (run / "checkpoints").glob("*") if path.name.isdigit()]


def kill_when(process, condition, run):
    """Kills a process at a moment at which the condition holds: it is stopped, looked at, and killed or let go on."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended before it could be killed: {printed(run)}"
        if condition():
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            if condition():
                process.kill()
                assert process.wait(PATIENCE) == -signal.SIGKILL
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0002)
    process.kill()
    raise AssertionError(printed(run))


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    finish(config, run)
    return run


def checkpoint_arrays(run):
    """The bytes of every array of the last checkpoint, read without the code that wrote them."""
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        step = max(int(path.name) for path in (run / "checkpoints").iterdir())
        items = {
            item: reader.restore((run / "checkpoints" / str(step) / item).absolute()) for item in ("params", "rest")
        }
    arrays = {(item, name): np.asarray(x).tobytes() for item, tree in items.items() for name, x in tree.items()}
    return step, arrays


@pytest.mark.parametrize("often", representatives([False, True], False))
def test_killed_while_it_saved_and_at_other_moments_it_ends_with_the_same_bytes(often, config, uninterrupted, tmp_path):
    run = tmp_path / "killed"
    # In its first steps, before anything was saved or just after.
    if often:
        kill_when(start(config, run), lambda: lines(run) >= 3, run)
    # While a checkpoint is being written, with a whole one before it.
    kill_when(start(config, run), lambda: bool(half_written(run) and whole(run)), run)
    assert half_written(run)
    if often:
        # Asked to end: it finishes the step, saves, says so.
        before = lines(run)
        process = start(config, run)
        deadline = time.monotonic() + PATIENCE
        while lines(run) < before + 30 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == EXIT_PREEMPTED, printed(run)
        assert "interrupted at step" in printed(run)
        assert "the same command continues from step" in printed(run)
        assert not half_written(run)
        # Late, with a good part of the steps behind it.
        kill_when(start(config, run), lambda: lines(run) >= 130, run)
    finish(config, run)

    assert "was left half-written by an interrupted save; removing it" in printed(run)
    assert not half_written(run)
    assert printed(run).count("resuming ") >= 1 + 2 * often
    assert "Traceback" not in printed(run)
    assert (run / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    assert lines(run) == 200 + 2
    assert checkpoint_arrays(run) == checkpoint_arrays(uninterrupted)
    assert checkpoint_arrays(run)[0] == 200
