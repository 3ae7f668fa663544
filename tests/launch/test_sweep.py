"""launch.sweep: every dry run is a golden file, and every mistake one line; tests/launch/clusters/test_here.py runs one.

RECORD=1 python -m pytest tests/launch/test_sweep.py     # writes the golden files anew; look at the difference
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.train.lab.ablation_files import write_ablation

MODULE = "launch.sweep"
ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "sweep"
CONFIG = "--config=configs/ablations/attention.py"
SLURM = ["--to=slurm", CONFIG, "--folder=/shared/cairn", "--partition=gpu", "--gpus_per_node=1", "--run=runs/heads"]
GKE = ["--to=gke", CONFIG, "--image=europe-docker.pkg.dev/project/cairn:1", "--claim=runs:/runs", "--run=/runs/heads"]
DRY_RUNS = {
    "local.txt": [
        CONFIG,
        "--run=runs/heads",
        "--set=training.num_steps=300",
        "--mesh=fsdp=2",
        "--",
        "--stall_timeout=9",
    ],
    "slurm.sh": [*SLURM, "--time=4:00:00", "--jobs=3", "--set=data.path=/shared/my text.txt"],
    "gke.yaml": [*GKE, "--topology=v6e:1x1", "--jobs=4", "--queue=small"],
    "gke_gpu.yaml": [*GKE, "--topology=h100:1x1"],
    "gke_hosts.yaml": [*GKE, "--topology=h100:2x8", "--mesh=fsdp=16"],
}
REFUSED = [
    ([], "--config is missing: which ablation?"),
    (["--config=configs/quickstart.py"], "defines no `ablation = Ablation(...)`, got an Experiment alone"),
    ([CONFIG, "--to=slrm"], "--to=slrm is no engine; did you mean 'slurm'?"),
    ([CONFIG, "--partition=gpu"], "--partition has no effect with --to=local; it belongs to a cluster"),
    ([*SLURM, "--image=i"], "--image has no effect with --to=slurm; it belongs to --to=gke"),
    ([*SLURM, "--only=search"], "--to=slurm: the search of rates runs on this machine"),
    (["--to=slurm", "--config=configs/ablations/optimizers.py", "--partition=gpu"], "--to=local --only=search before"),
    ([CONFIG, "--set=data.seed=1"], "--set data.seed=1: a sweep sets the seeds of its runs"),
    ([CONFIG, "--set=model.wdth=1"], "ModelConfig has no field 'wdth'; did you mean 'width'?"),
    ([CONFIG, "extra"], "unexpected argument 'extra'; after -- come flags of launch.train"),
    ([*GKE, "--topology=h100:2x8", "--mesh=fsdp=16", "--jobs=2"], "--jobs=2 has no effect: each run has several hosts"),
    ([*GKE[:4], "--topology=v6e:1x1", "--run=runs/heads"], "is not on a volume that all pods share"),
    ([*SLURM, "--mesh=fsdp=2"], "mesh fsdp=2 does not multiply to the 1 devices of this job"),
]


@pytest.fixture(scope="module")
def answers(call):
    """Of all calls, dry, in one process; the flags of this machine for XLA are not in a golden file."""
    calls = [["--dry_run", *arguments] for arguments in [*DRY_RUNS.values(), *(given for given, _ in REFUSED)]]
    before = os.environ.pop("XLA_FLAGS")
    try:
        found = call(MODULE, calls)
    finally:
        os.environ["XLA_FLAGS"] = before
    return found[: len(DRY_RUNS)], found[len(DRY_RUNS) :]


def test_dry_runs_are_the_golden_files(answers):
    for name, answer in zip(DRY_RUNS, answers[0], strict=True):
        assert (answer.status, answer.err) == (0, ""), (name, answer)
        if os.environ.get("RECORD"):
            (FIXTURES / name).write_text(answer.out)
        assert answer.out == (FIXTURES / name).read_text(), name


def test_mistakes(answers):
    for (given, words), answer in zip(REFUSED, answers[1], strict=True):
        assert (answer.status, answer.out) == (2, ""), (given, answer)
        assert words in answer.err, (given, answer.err)


def test_the_job_of_gke_is_indexed_and_a_failed_run_leaves_the_others_alone():
    job = yaml.safe_load((FIXTURES / "gke.yaml").read_text())
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Job", "Indexed", 12, 4)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailIndex"
    assert 75 in rule["onExitCodes"]["values"]
    container = spec["template"]["spec"]["containers"][0]
    assert "hostNetwork" not in spec["template"]["spec"]  # several may share a node
    assert rule["onExitCodes"]["containerName"] == container["name"]
    # What Kubernetes makes of it: two dollars are one. Then bash runs the run of an index.
    script = container["command"][2].replace("$$", "$").replace("exec python", "echo python")
    shown = subprocess.run(["bash", "-c", script], env={"JOB_COMPLETION_INDEX": "5"}, capture_output=True, text=True)
    assert "--run=/runs/heads/grouped-seed1" in shown.stdout
    assert "--set=data.seed=1" in shown.stdout


def test_several_hosts_have_a_jobset_each():
    jobs = list(yaml.safe_load_all((FIXTURES / "gke_hosts.yaml").read_text()))
    assert len(jobs) == 12
    assert {job["kind"] for job in jobs} == {"JobSet"}
    assert len({job["metadata"]["name"] for job in jobs}) == 12
    assert jobs[0]["metadata"]["name"] == "heads-multi-head-seed0"


def test_the_array_of_slurm_has_a_task_for_every_run():
    script = (FIXTURES / "slurm.sh").read_text()
    assert "#SBATCH --array=0-11%3\n" in script
    assert re.findall(r"--run=runs/heads/(\S+)", script)[:4] == [
        f"{name}-seed0" for name in ("multi_head", "grouped", "multi_query", "latent")
    ]


@pytest.mark.sweep
def test_ctrl_c_stops_all_and_the_same_command_continues(tiny_experiment, tmp_path):
    experiment = tiny_experiment(training__num_steps=400, samples__prompts=(), evaluation__every=400)
    config = write_ablation(tmp_path / "a.py", experiment, "variants={'fast': 'schedule.peak=2e-2'}, seeds=(0, 1)")
    words = [sys.executable, "-m", MODULE, f"--config={config}", f"--run={tmp_path / 'runs'}", "--jobs=2"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    began = [tmp_path / "runs" / name / "metrics.jsonl" for name in ("base-seed0", "fast-seed0")]
    while not all(path.exists() and path.stat().st_size for path in began):
        assert process.poll() is None
        time.sleep(0.1)
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (again.returncode, "a sweep runs in" in again.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "interrupted by SIGINT; the same command continues the sweep" in printed
    states = [json.loads((path.parent / "status.json").read_text()) for path in began]
    assert {state["state"] for state in states} <= {"interrupted", "finished"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
