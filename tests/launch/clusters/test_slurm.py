"""The script for SLURM as a shell runs it, and what submitting asks of SLURM; tests/clusters/slurm.py has a real one."""

import dataclasses
import pathlib
import sys

import pytest

from launch.clusters import job as jobs
from launch.clusters.job import Job
from launch.clusters.slurm import Slurm
from model.errors import UserError
from tests.launch.clusters.fakes import Fakes

JOB = Job(config="configs/quickstart.py", run="runs/a b", settings=("""samples.prompts=("it's $HOME",)""",))
SLURM = Slurm(partition="gpu", max_restarts=2)
COMMAND = ["python", "-m", "launch.train", "--config=configs/quickstart.py", "--run=runs/a b"]


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (2, 0, False), (69, 0, True), (70, 1, True), (75, 1, True), (75, 2, False)],
)
def test_the_script_requeues_what_another_try_can_mend(status, restarts, requeued, tmp_path):
    answers = {"srun": [("python", status, "", "")], "squeue": [("--jobs=7", 0, "RUNNING\n", "")]}
    fakes = Fakes(tmp_path, ["srun", "scontrol", "squeue"], answers)
    done = fakes.run(SLURM.text(JOB), SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts))
    assert done == status
    assert fakes.calls("srun") == [
        ["srun", "--kill-on-bad-exit=0", "--wait=0", *COMMAND, """--set=samples.prompts=("it's $HOME",)"""]
    ]
    assert fakes.calls("scontrol") == ([["scontrol", "requeue", "7"]] if requeued else [])


def test_a_job_that_is_cancelled_stays_so(tmp_path):
    answers = {"srun": [("python", 75, "", "")], "squeue": [("--jobs=7", 0, "COMPLETING\n", "")]}
    fakes = Fakes(tmp_path, ["srun", "scontrol", "squeue"], answers)
    assert fakes.run(SLURM.text(JOB), SLURM_JOB_ID="7") == 75
    assert fakes.calls("scontrol") == []


def test_a_task_of_an_array_runs_its_own(tmp_path):
    sweep = dataclasses.replace(SLURM, seeds="1-2", variant=("base:", "wide: model.width=512"))
    fakes = Fakes(tmp_path, ["srun"])
    assert fakes.run(sweep.text(JOB), SLURM_JOB_ID="7", SLURM_ARRAY_TASK_ID="3") == 0
    (words,) = fakes.calls("srun")
    assert "--run=runs/a b/wide-seed2" in words
    assert words[-3:] == ["--set=model.width=512", "--set=training.seed=2", "--set=data.seed=2"]


def test_directives_are_quoted_for_sbatch():
    text = dataclasses.replace(SLURM, folder='/shared/my "code"', sbatch=("--constraint=a&b",)).text(JOB)
    assert '#SBATCH --chdir="/shared/my \\"code\\""\n' in text
    assert "#SBATCH --constraint=a&b\n" in text
    assert "\n#SBATCH --requeue\n" in text
    with pytest.raises(UserError, match="line break"):
        dataclasses.replace(SLURM, sbatch=("--a=b\nc",)).text(JOB)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Where programs of SLURM are fakes, and runs have a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()

    def install(names, answers=None):
        fakes = Fakes(tmp_path / "bin", names, answers, readers=("sbatch",))
        monkeypatch.setenv("PATH", f"{fakes.path}:{pathlib.Path(sys.executable).parent}")
        return fakes

    return install


def test_it_submits_the_script_of_the_dry_run(here, capsys):
    fakes = here(["sbatch", "squeue"], {"sbatch": [("--parsable", 0, "42\n", "")]})
    assert SLURM.submit(JOB) == 0
    assert fakes.calls("sbatch") == [["sbatch", "--parsable", SLURM.text(JOB)]]
    assert capsys.readouterr().out == f"job 42; its output: {pathlib.Path.cwd()}/runs/a b/logs/slurm-42.txt\n"
    assert pathlib.Path("runs/a b/logs").is_dir()


@pytest.mark.parametrize("answer", ["12 cairn run {}/runs/a b\n", "7 cairn run /x\n12 cairn run {}/runs/a b\n"])
def test_two_jobs_on_one_run_are_refused(here, answer):
    fakes = here(["sbatch", "squeue"], {"squeue": [("--me", 0, answer.format(pathlib.Path.cwd()), "")]})
    with pytest.raises(UserError, match="job 12 trains in runs/a b already, or waits to"):
        SLURM.submit(JOB)
    assert fakes.calls("sbatch") == []


def test_what_slurm_says_is_passed_on(here, monkeypatch):
    here(["sbatch", "squeue"], {"sbatch": [("--parsable", 1, "", "sbatch: error: invalid partition specified: gpu\n")]})
    with pytest.raises(UserError, match="invalid partition specified: gpu; the script is printed by --dry_run"):
        SLURM.submit(JOB)
    monkeypatch.setattr(jobs.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="sbatch is not installed here; run this on a login node .* or add --dry_run"):
        SLURM.submit(JOB)
