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

from tests.launch.clusters.fakes import Fakes
from tests.train.lab.ablation_files import pretend, write_ablation
from train.lab.sweep import Sweep

MODULE = "launch.sweep"
ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "sweep"
CONFIG = "--config=configs/ablations/attention.py"
SLURM = ["--to=slurm", CONFIG, "--folder=/shared/cairn", "--partition=gpu", "--gpus_per_node=1", "--run=runs/heads"]
GKE = ["--to=gke", CONFIG, "--image=europe-docker.pkg.dev/project/cairn:1", "--claim=runs:/runs", "--run=/runs/heads"]
DRY_RUNS = {
    "joint.txt": [CONFIG, "--run=runs/heads", "--joint=2", "--", "--hard_stop=9"],
    "local.txt": [
        CONFIG,
        "--run=runs/heads",
        "--set=training.num_steps=900",
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


@pytest.fixture
def cluster(tiny_experiment, tmp_path, monkeypatch):
    """The flags of a tiny sweep whose first run is done, and the programs of clusters as fakes."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # launch.sweep sets it for its own process
    config = write_ablation(
        tmp_path / "tiny.py", tiny_experiment(), "variants={'wide': 'model.ffn.width=96'}, seeds=(0, 1)"
    )
    sweep = Sweep.from_file(str(config), tmp_path / "runs")
    pretend(sweep.runs()[0], 3.0)
    (tmp_path / "bin").mkdir()
    answers = {"sbatch": [("--parsable", 0, "42\n", "")], "kubectl": [("create", 0, "job.batch/runs created\n", "")]}
    fakes = Fakes(tmp_path / "bin", ["sbatch", "squeue", "kubectl"], answers, readers=("sbatch", "kubectl"))
    monkeypatch.setenv("PATH", f"{fakes.path}:{pathlib.Path(sys.executable).parent}")
    return [f"--config={config}", f"--run={tmp_path / 'runs'}"], fakes, tmp_path / "runs"


def test_an_array_is_submitted_without_the_runs_that_are_done(cluster, command):
    flags, fakes, folder = cluster
    status, printed = command(MODULE, *flags, "--to=slurm", "--partition=cpu")
    assert (status, printed.startswith("job 42; its output: ")) == (0, True), printed
    ((*_, script),) = fakes.calls("sbatch")
    assert re.findall(r"--run=\S*/(\S+)", script) == ["wide-seed0", "base-seed1", "wide-seed1"]
    assert json.loads((folder / "sweep.json").read_text())["seeds"] == [0, 1]
    assert (folder / "wide-seed1" / "data").resolve() == (folder / "base-seed1" / "data").resolve()  # one text for all
    status, printed = command(MODULE, *flags, "--only=report")
    assert (status, "report.html" in printed) == (0, True), printed


def test_an_indexed_job_is_created(cluster, command):
    flags, fakes, folder = cluster
    place = ["--to=gke", "--topology=v6e:1x1", "--image=i", f"--claim=runs:{folder.parent}"]
    status, printed = command(MODULE, *flags, *place)
    assert (status, printed) == (0, "job.batch/runs created; its log: kubectl logs --follow jobs/runs\n")
    ((*_, manifest),) = fakes.calls("kubectl")
    assert yaml.safe_load(manifest)["spec"]["completions"] == 3
    assert not (folder / "sweep.json").exists()  # the volume may not be here: --only=report writes it where it is


def test_steps_are_measured_in_turn_and_the_fastest_counts(cluster, command, monkeypatch, tmp_path):
    """launch.bench is a program of this test here; the base takes 0.5 s at best, and the variant 1 s."""
    config, _ = cluster[0]
    path = pathlib.Path(config.removeprefix("--config="))
    path.write_text(path.read_text().replace("seeds=(0, 1)", "seeds=(0, 1), hold='time'"))
    calls, seconds = [], iter([0.6, 1.0, 0.5, 1.4, 2.0, 2.0])

    def bench(words, **options):
        calls.append(words[2:])
        return subprocess.CompletedProcess(words, 0, json.dumps({"seconds": next(seconds)}), "")

    monkeypatch.setattr(subprocess, "run", bench)
    status, printed = command(MODULE, config, "--run=" + str(tmp_path / "timed"), "--dry_run")
    assert status == 0, printed
    assert [words[0] for words in calls] == ["launch.bench"] * 6
    assert ["--set=model.ffn.width=96" in words for words in calls] == [False, True] * 3
    assert re.findall(r"training.num_steps=(\d+)", printed) == ["10", "10"]


@pytest.mark.sweep
def test_a_sweep_that_is_killed_takes_its_runs_along_and_continues(tiny_experiment, tmp_path):
    """SIGKILL reaches the process of the sweep alone, and the same command is given at once."""
    experiment = tiny_experiment(
        training__num_steps=400, samples__prompts=(), evaluation__every=400, checkpoints__every=400
    )
    fields = "variants={'fast': 'schedule.peak=2e-2'}, seeds=(0,), alpha=None"
    config = write_ablation(tmp_path / "a.py", experiment, fields)
    words = [sys.executable, "-m", MODULE, f"--config={config}", f"--run={tmp_path / 'runs'}"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs" / "base-seed0"
    while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    again = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while json.loads((run / "status.json").read_text())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["reason"].split(";")[0]) == ("interrupted", "SIGTERM")
    assert 0 < status["step"] < 400
    assert (run / "checkpoints" / str(status["step"])).is_dir()
    _, printed = again.communicate(timeout=600)
    assert again.returncode == 0, printed
    states = [json.loads(path.read_text())["state"] for path in (tmp_path / "runs").glob("*-seed0/status.json")]
    assert states == ["finished"] * 2
    assert "is in use by process" not in printed


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
    _, printed = process.communicate(timeout=600)
    assert process.returncode == 75
    assert "interrupted by SIGINT; the same command continues the sweep" in printed
    states = [json.loads((path.parent / "status.json").read_text()) for path in began]
    assert {state["state"] for state in states} <= {"interrupted", "finished"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
