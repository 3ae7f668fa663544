"""A run on two nodes of a real SLURM that is preempted, requeued, robbed of a process and stopped before its time limit.

    python -m tests.clusters.slurm

Starts SLURM on this machine (tests/clusters/slurm_daemons.py; installs it by apt as root), submits with launch.submit,
disturbs the job in every way that a cluster has, and compares its metrics, samples and parameters with those of an
undisturbed run on one process with two devices. Then two seeds as a job array. Takes about ten minutes on an idle machine; prints a line
for every event. Not part of `make test`.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from tests.clusters import slurm_daemons
from tests.train.process.test_several_processes import assert_same_run, last_step, lines

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds until an event must have happened
NUM_STEPS = 6000  # a fast machine makes 3,000 until the time limit comes near
GONE = "; see its log, and start all processes again"  # what train/process/watch.py says of a process
CONFIG = """
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from train.data.config import Bytes, Data, Tail
from train.experiment import Checkpoints, Evaluation, Experiment, Logging, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment = Experiment(
    model=ModelConfig(
        vocab_size=257, context_length=32, num_layers=2, width=32, mixer=GroupedQuery(num_heads=4), ffn=Gated(width=64)
    ),
    data=Data(
        path={text!r}, tokenizer=Bytes(), validation=Tail(fraction=0.1), batch_size=8, sequence_length=32, prefetch=2
    ),
    training=Training(num_steps={steps}),
    optimizer=AdamW(weight_decay=0.1),
    schedule=Cosine(peak=1e-3, final=1e-4, warmup_steps=20),
    evaluation=Evaluation(every=1000),
    checkpoints=Checkpoints(every=200),
    samples=Samples(prompts=("the ",), length=8),
    logging=Logging(every=1, tensorboard=False),
)
"""
BEGAN = time.monotonic()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    slurm_daemons.install()
    os.environ["SLURM_CONF"] = str(slurm_daemons.start())
    # The tasks and the undisturbed run inherit these; each process has one device, or two when it is alone.
    os.environ |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": device_flag(1)}
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
    with contextlib.ExitStack() as stack:
        stack.callback(slurm_daemons.stop)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn_slurm_")))
        exercise(folder)
    say("all is as it should be")


def exercise(folder):
    sentences = "".join(f"The {word} of the run is number {number}.\n" for number, word in enumerate(dir(str) * 20))
    (folder / "text.txt").write_text(sentences)
    config = folder / "config.py"
    config.write_text(CONFIG.format(text=str(folder / "text.txt"), steps=NUM_STEPS))

    undisturbed, run = folder / "undisturbed", folder / "a run"
    submit("--to=local", "--devices_per_process=2", f"--config={config}", f"--run={undisturbed}", "--mesh=fsdp=2")
    say(f"the undisturbed run has finished {last_step(undisturbed)} steps")

    flags = ["--to=slurm", "--partition=low", "--nodes=2", f"--python={sys.executable}", f"--config={config}"]
    flags += ["--time=60", "--signal_seconds=60", "--mesh=fsdp=2"]
    job = submit(*flags, f"--run={run}").split()[1].rstrip(";")
    refused = submit(*flags, f"--run={run}", status=2)
    assert f"job {job} trains in {run} already" in refused, refused
    say(f"job {job} is submitted; a second one for the same folder is refused")
    log = run / "logs" / f"slurm-{job}.txt"

    wait_for("the job trains", lambda: last_step(run) >= 20, log)
    urgent = slurm("sbatch", "--parsable", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 2")
    wait_for("a job of the partition high preempts it", lambda: restarts(job) == 1, log)
    wait_for("the other job has ended", lambda: state(urgent) in ("", "COMPLETED"), log)
    assert_saved(run, "SIGTERM", log)

    continue_now(job)
    reached = last_step(run)
    wait_for("it continues", lambda: last_step(run) >= reached + 20, log)
    slurm("scontrol", "requeue", job)
    wait_for("scontrol requeues it", lambda: restarts(job) == 2, log)
    assert_saved(run, "SIGTERM", log)

    continue_now(job)
    reached = last_step(run)
    wait_for("it continues", lambda: last_step(run) >= reached + 20, log)
    for number, words in ((1, "process 1 of 2 on"), (0, "process 0")):  # process 0 is where both meet
        before = len(log.read_text())
        os.kill(processes_of(run)[number], signal.SIGKILL)
        count = 3 if number else 4
        wait_for(f"process {number} is killed, and the script requeues the job", lambda: restarts(job) == count, log)
        said = log.read_text()[before:]
        assert any(f"error: {words}" in line and GONE in line for line in said.splitlines()), said
        assert "Traceback" not in said, said
        assert "status 137: the job is requeued" in said, said

        continue_now(job)
        resumed = log.read_text().count("resuming")
        wait_for("it continues", lambda: log.read_text().count("resuming") > resumed, log)
        reached = last_step(run)
        wait_for("it makes steps", lambda: last_step(run) >= reached + 10, log)
    slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes_of(job) + 2}")
    wait_for("the time limit comes near, and the script requeues the job", lambda: restarts(job) == 5, log)
    assert_saved(run, "SIGTERM", log)
    assert "status 75: the job is requeued" in log.read_text()

    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    continue_now(job)
    reached = last_step(run)
    wait_for("it continues", lambda: last_step(run) >= reached + 10, log)
    slurm("scancel", job)
    wait_for("it is cancelled, and stays so", lambda: state(job) == "CANCELLED", log)
    assert_saved(run, "SIGTERM", log)
    job = submit(*flags, f"--run={run}").split()[1].rstrip(";")
    log = run / "logs" / f"slurm-{job}.txt"
    wait_for("the run is finished", lambda: status(run)["state"] == "finished", log)
    wait_for("the job has ended", lambda: state(job) in ("", "COMPLETED"), log)
    assert "Traceback" not in log.read_text()
    assert_same_run(run, undisturbed)
    say(f"{len(lines(run))} lines of metrics, the samples and all arrays equal those of the undisturbed run")

    array = ["--seeds=1-2", "--set=training.num_steps=40"]
    flags[2] = "--nodes=1"
    submit(*flags, *array, f"--run={folder / 'sweep'}", "--mesh=fsdp=1")
    runs = [folder / "sweep" / f"seed{seed}" for seed in (1, 2)]
    wait_for(
        "a job array of two seeds has finished", lambda: [status(run)["state"] for run in runs] == ["finished"] * 2
    )
    wait_for("its jobs have ended", lambda: not slurm("squeue", "--noheader"))
    assert lines(runs[0]) != lines(runs[1])


def submit(*flags, status=0):
    """Calls launch.submit, and returns what it printed, with its errors when a status other than 0 is expected."""
    done = subprocess.run(
        [sys.executable, "-m", "launch.submit", *flags],
        cwd=ROOT,
        env=os.environ | ({"XLA_FLAGS": device_flag(2)} if "--to=local" in flags else {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def field(job, name):
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True).stdout
    return next((word.partition("=")[2] for word in shown.split() if word.startswith(f"{name}=")), "")


def restarts(job):
    return int(field(job, "Restarts") or 0)


def minutes_of(job):
    """The minutes that a job has run since it last started, the last one not whole."""
    hours, minutes, _ = field(job, "RunTime").split(":")
    return 60 * int(hours) + int(minutes)


def state(job):
    return field(job, "JobState")


def continue_now(job):
    """SLURM lets a requeued job wait for two minutes; a start in the second in which it ended is refused by its nodes."""
    wait_for("the job is pending", lambda: state(job) in ("PENDING", "RUNNING"))
    if state(job) == "PENDING":
        time.sleep(3)
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)
    wait_for("the job runs again", lambda: state(job) == "RUNNING")


def processes_of(run):
    """The process ids of the training processes of a run, by their numbers among them."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"launch.train" in words and f"--run={run}".encode() in words and b"srun" not in words[0]:
                environment = path.with_name("environ").read_bytes().split(b"\0")
                number = next(each for each in environment if each.startswith(b"SLURM_PROCID=")).partition(b"=")[2]
                found[int(number)] = int(path.parent.name)
    return found


def status(run):
    try:
        return json.loads((run / "status.json").read_text())
    except OSError:
        return {"state": None}


def assert_saved(run, reason, log):
    """The run ended by itself, with a checkpoint of the step that it had reached."""
    wait_for("its processes have ended", lambda: not processes_of(run), log)
    ended = status(run)
    assert ended["state"] == "interrupted", (ended, log.read_text())
    assert reason in ended["reason"], ended
    assert (run / "checkpoints" / str(ended["step"])).is_dir()
    say(f"it saved step {ended['step']} and ended: {ended['reason']}")


def wait_for(event, condition, log=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"after {PATIENCE} s not yet: {event}\n{log.read_text() if log and log.exists() else ''}")
        time.sleep(0.2)
    say(event)


def device_flag(count):
    return f"--xla_force_host_platform_device_count={count}"


def say(event):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {event}", flush=True)


if __name__ == "__main__":
    main()
