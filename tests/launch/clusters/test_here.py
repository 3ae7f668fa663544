"""One tiny sweep from start to end on this machine: a failure, a death, a second start, and what is in the folders."""

import contextlib
import io
import json
import pathlib
import shutil

import numpy as np
import pytest

from launch.clusters import here
from launch.clusters.here import run_sweep
from launch.clusters.pool import Place
from model.errors import UserError
from tests.train.lab.ablation_files import pretend, write_ablation
from train.config_file import from_file
from train.data.batches.pipeline import Batches
from train.data.shards.dataset import open_dataset
from train.experiment import Branch, load
from train.lab.sweep import Sweep
from train.loop import train
from train.run.loading import load_params
from train.run.metrics import read_metrics

VARIANTS = "base_name='slow', variants={'fast': 'schedule.peak=2e-2'}, seeds=(3, 4)"


class Ended:
    """A process that has ended."""

    def __init__(self, status):
        self.status = status

    def poll(self):
        return self.status

    def send_signal(self, number):
        pass


class Trainer:
    """Trains in this process. `fates` are the ends of runs by their names: a status, or a step at which one is killed."""

    def __init__(self, fates):
        self.fates, self.started = fates, []

    def __call__(self, job, place):
        name = job.run.rpartition("/")[2]
        self.started.append(name)
        kind, number = self.fates.get(name, ("step", None))
        if kind == "status":
            return Ended(number)
        with contextlib.redirect_stderr(io.StringIO()):
            train(from_file(job.config, job.settings), pathlib.Path(job.run), number, say=lambda line: None)
        return Ended(0 if number is None else -9)


@pytest.fixture(scope="module")
def swept(tiny_experiment, tmp_path_factory):
    """The folder of a sweep, and for each of its three starts: its status, the runs it started, the lines it printed."""
    patch = pytest.MonkeyPatch()
    patch.setattr("launch.clusters.pool._POLL_SECONDS", 0)
    folder = tmp_path_factory.mktemp("sweep")
    experiment = tiny_experiment(
        model__num_layers=1,
        training__num_steps=4,
        schedule__warmup_steps=1,
        evaluation__every=2,
        evaluation__max_batches=1,
        checkpoints__every=2,
        samples__prompts=(),
    )
    config = write_ablation(folder / "tiny.py", experiment, VARIANTS)
    starts, report = [], here.report
    for fates in ({"fast-seed3": ("status", 2), "slow-seed4": ("step", 2)}, {}, {}):
        patch.setattr(here, "report", report if len(starts) == 1 else lambda sweep: print("reported"))
        sweep, trainer = Sweep.from_file(str(config), folder / "runs"), Trainer(fates)
        sweep.folder.mkdir(exist_ok=True)
        sweep.save()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_sweep(sweep, [Place()], trainer)
        starts.append((status, trainer.started, out.getvalue(), err.getvalue()))
    patch.undo()
    return folder / "runs", starts


def test_a_failure_leaves_the_others_alone(swept):
    _, ((status, started, out, err), *_) = swept
    assert status == 1
    assert started == ["slow-seed3", "fast-seed3", "slow-seed4", "fast-seed4"]
    assert "slow-seed3: finished, loss" in err
    assert "fast-seed3 ended with status 2 at step 0" in err
    assert "slow-seed4 ended with status 137 at step 2" in err
    assert out == "reported\n"


def test_the_second_start_continues_what_is_left(swept):
    folder, (_, (status, started, out, err), _) = swept
    assert (status, started) == (0, ["fast-seed3", "slow-seed4"])
    assert f"report: {folder / 'report.html'}" in out
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["fast", "slow"]
    lines = [json.loads(line) for line in (folder / "slow-seed4" / "throughput.jsonl").read_text().splitlines()]
    assert [line["session"] for line in lines] == [1, 1, 2, 2]  # from its checkpoint of step 2
    assert "ended with status" not in err


def test_the_third_start_has_nothing_to_do(swept):
    _, (*_, (status, started, out, err)) = swept
    assert (status, started, out, err) == (0, [], "reported\n", "")


def test_runs_are_ordinary_and_share_their_text(swept):
    folder, _ = swept
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}-seed{seed}" for name in ("slow", "fast") for seed in (3, 4)),
        *("sweep.json", "texts", "report.html", "results.csv", "results.md", "results.tex"),
    }
    assert len(list((folder / "texts").iterdir())) == 1
    for name in ("slow-seed3", "fast-seed4"):
        assert load_params(folder / name).step == 4
    data = json.loads((folder / "fast-seed4" / "data.json").read_text())
    assert data["dataset"].endswith("fast-seed4/data")


def test_a_seed_pairs_batches_and_initial_values(swept):
    """The loss of the first step, before any update, is that of the initial values on the first batch."""
    folder, _ = swept
    first, rows = {}, {}
    for variant in ("slow", "fast"):
        for seed in (3, 4):
            run = folder / f"{variant}-seed{seed}"
            first[variant, seed] = next(line["loss"] for line in read_metrics(run) if line["kind"] == "train")
            batches = Batches(open_dataset(run / "data"), load(run).data, "train", ("tokens",))
            rows[variant, seed] = batches.rows(1)["tokens"]
    for seed in (3, 4):
        assert first["slow", seed] == first["fast", seed]
        np.testing.assert_array_equal(rows["slow", seed], rows["fast", seed])
    assert first["slow", 3] != first["slow", 4]
    assert (rows["slow", 3] != rows["slow", 4]).any()


def test_another_config_in_a_run_is_refused(swept, tmp_path, tiny_experiment):
    folder, _ = swept
    shutil.copytree(folder, tmp_path / "runs", symlinks=True)
    (tmp_path / "runs" / "sweep.json").unlink()
    config = write_ablation(tmp_path / "other.py", tiny_experiment(training__num_steps=5), VARIANTS)
    with pytest.raises(UserError, match="slow-seed3 holds a run of another config"):
        run_sweep(Sweep.from_file(str(config), tmp_path / "runs"), [Place()], Trainer({}))


class Slow(Ended):
    """A process that ends at its third poll, and then its run is done."""

    def __init__(self, run):
        super().__init__(None)
        self.run, self.polls = run, 0

    def poll(self):
        self.polls += 1
        if self.polls == 3:
            pretend(self.run, 3.0)
            self.status = 0
        return self.status


def test_branches_start_when_their_trunks_have_ended(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("launch.clusters.pool._POLL_SECONDS", 0)
    branch = "training.branch_from=Branch(run='{sweep}/base-seed{seed}', step=10)"
    fields = f"variants={{'decay': ({branch!r}, 'schedule.final=0.0'), 'other': 'schedule.peak=2e-2'}}, seeds=(0, 1)"
    config = write_ablation(tmp_path / "a.py", tiny_experiment(), fields)
    sweep, started, running = Sweep.from_file(str(config), tmp_path / "runs"), [], {}
    runs = {str(run.folder): run for run in sweep.runs()}
    assert runs[str(tmp_path / "runs" / "decay-seed1")].experiment.training.branch_from == Branch(
        run=str(tmp_path / "runs" / "base-seed1"), step=10
    )

    def start(job, place):
        started.append(runs[job.run].label)
        if "decay" in started[-1]:
            assert all(process.status == 0 for name, process in running.items() if "decay" not in name)
        running[started[-1]] = Slow(runs[job.run])
        return running[started[-1]]

    execute = here.executor(sweep, [Place()] * 8, start)
    assert set(execute("runs", sweep.runs()).values()) == {0}
    assert started == ["base-seed0", "other-seed0", "base-seed1", "other-seed1", "decay-seed0", "decay-seed1"]


def test_runs_of_equal_shapes_are_one_job(tiny_experiment, tmp_path, monkeypatch):
    """A job of several ends with one status; those of its runs that are done have 0."""
    monkeypatch.setattr("launch.clusters.pool._POLL_SECONDS", 0)
    fields = "variants={'fast': 'schedule.peak=2e-2', 'wide': 'model.width=64'}, seeds=(0, 1)"
    config = write_ablation(tmp_path / "a.py", tiny_experiment(), fields)
    sweep = Sweep.from_file(str(config), tmp_path / "runs", ("data.prefetch=1",))
    runs, started = {str(run.folder): run for run in sweep.runs()}, []

    def start(job, place):
        started.append(job)
        if job.members:
            for run in job.runs[:-1]:
                pretend(runs[run], 3.0)
            pretend(runs[job.runs[-1]], 9.0, "failed", "all skipped")
            return Ended(2)
        pretend(runs[job.run], 3.0)
        return Ended(0)

    statuses = here.executor(sweep, [Place()], start, joint=3)("runs", sweep.runs())
    labels = [[runs[run].label for run in job.runs] for job in started]
    assert labels == [["base-seed0", "fast-seed0"], ["base-seed1", "fast-seed1"], ["wide-seed0", "wide-seed1"]]
    assert statuses == {
        label: 2 * (label in ("fast-seed0", "fast-seed1", "wide-seed1")) for group in labels for label in group
    }
    assert started[0].settings == ("data.prefetch=1",)
    assert started[0].members[1][1] == ("schedule.peak=2e-2", "training.seed=0", "data.seed=0")
    assert here.log_of_job(started[0]) == tmp_path / "runs" / "logs" / "base-seed0-joint.txt"
    assert [job.run for job in here.jobs_of(sweep, sweep.runs())] == list(runs)
