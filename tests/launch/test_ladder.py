"""launch.ladder: plans, fits of files, a ladder whose runs are written by hand, and one that is trained."""

import json
import pathlib
import types

import pytest

from configs.shakespeare_char import experiment as shakespeare
from tests.train.lab.scaling.ladder.ladders import finish
from tests.train.lab.scaling.laws import TRUTH, isoflop_points
from train.lab.scaling.ladder import held_out
from train.lab.scaling.ladder.plan import Planner
from train.lab.scaling.points import write_points

MODULE, CONFIG = "launch.ladder", "--config=configs/shakespeare_char.py"


@pytest.fixture
def points(tmp_path):
    runs = isoflop_points(noise=2e-3)
    columns = {name: getattr(runs, name) for name in ("parameters", "tokens", "loss")}
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    write_points(tmp_path / "points.csv", rows)
    return tmp_path / "points.csv"


def test_a_file_is_fitted(command, points, tmp_path):
    page = tmp_path / "page.html"
    status, said = command(MODULE, "--fit_only", f"--points={points}", "--at=1e21", "--draws=40", f"--report={page}")
    assert status == 0
    assert "15 runs; intervals of 95% from 40 fits of drawn noise" in said
    found = float(said.split("  alpha")[1].split()[0])
    assert found == pytest.approx(TRUTH.alpha, rel=0.1)
    assert "C = 1e+21, approach 3" in said
    assert f"report: {page}" in said
    assert "<title>points: Cairn report</title>" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--run is missing"),
        (["--run=RUN"], "--config is missing"),
        ([CONFIG, "--run=RUN"], "--flops is missing: budgets such as"),
        ([CONFIG, "--run=RUN", "--flops=1e12,much"], "--flops=1e12,much: expected numbers above 0"),
        ([CONFIG, "--run=RUN", "--flops=1e12", "--tokens_per_parameter=5,20"], "it is one guess"),
        ([CONFIG, "--run=RUN", "--flops=1e9"], "no shape has about .*|at least 20 are needed"),
        (["--fit_only", "--run=RUN"], "is no ladder: it has no ladder.json"),
        (["--points=none.csv"], "none.csv cannot be read"),
        (["--points=none.csv", "--flops=1e12"], "--flops has no effect with --points, which trains nothing"),
        (["--points=none.csv", "--report=nowhere/law.html"], "--report=nowhere/law.html: its folder does not exist"),
        (["--fit_only", "--run=RUN", "--held_out=1e15"], "--held_out has no effect with --fit_only"),
        ([CONFIG, "--run=RUN", "--flops=1e12", "--report=law.html"], "--report has no effect without --points"),
        (
            [CONFIG, "--run=RUN", "--flops=3e11,1e12", "--held_out=1e12"],
            "--held_out=1e+12 is no larger than the largest",
        ),
        (["--run=RUN", "more"], "unexpected argument 'more'"),
        (["--run=RUN", "--spread=1"], "spread"),
    ],
)
def test_mistakes(command, arguments, words, tmp_path):
    status, said = command(MODULE, *(text.replace("RUN", str(tmp_path / "ladder")) for text in arguments))
    assert status == 2
    assert any(word in said for word in words.split("|")) or "no shape has about" in said
    assert not (tmp_path / "ladder").exists()


def test_a_plan_is_printed_and_nothing_trained(command, tmp_path):
    flags = [CONFIG, f"--run={tmp_path / 'ladder'}", "--parameters=1e5,3e5", "--tokens_per_parameter=5,20", "--dry_run"]
    status, said = command(MODULE, *flags)
    assert status == 0
    assert "2 x 64, 2 heads" in said
    assert "4 runs, " in said
    assert "then one" not in said
    _, said = command(MODULE, *flags, "--held_out=1e15")
    assert "then one of 1.000e+15 FLOPs, not in this sum, of the size that these runs predict" in said
    assert not (tmp_path / "ladder").exists()


@pytest.fixture
def submitted(monkeypatch):
    """The jobs that are started; each writes a finished run folder, or ends with the status at its number."""
    from launch.clusters.local import Local

    found = types.SimpleNamespace(jobs=[], statuses={})
    planner = Planner(shakespeare)

    def submit(self, job):
        found.jobs.append(job)
        if (status := found.statuses.get(len(found.jobs))) is not None:
            return status
        settings = dict(setting.split("=", 1) for setting in job.settings)
        shape = planner._shapes.shape(int(settings["model.num_layers"]), int(settings["model.width"]))
        rung = planner._rung(shape, int(settings["training.num_steps"]) * 768, None)
        return finish(pathlib.Path(job.run), rung)

    monkeypatch.setattr(Local, "submit", submit)
    monkeypatch.setattr(held_out, "render", lambda analysis, title, about: about)  # the page has tests of its own
    return found


def test_a_ladder_goes_on_after_failures_and_interrupts(command, submitted, tmp_path):
    run = tmp_path / "ladder"
    flags = [CONFIG, "--set=data.path=text.txt", f"--run={run}", "--flops=3e10,1e11", "--sizes=4", "--spread=2"]
    flags += ["--tokens_per_parameter=2", "--draws=30", "--held_out=1e12"]
    submitted.statuses = {1: 143}
    assert command(MODULE, *flags)[0] == 75  # a signal ended the run before it could save
    submitted.jobs.clear()

    submitted.statuses = {2: 2, 5: 75}
    status, said = command(MODULE, *flags)
    assert status == 75
    assert "interrupted; the same command continues the ladder" in said
    assert "failed with status 2; the others go on" in said
    job = submitted.jobs[0]
    assert job.settings[0] == "data.path=text.txt"
    assert job.command("python")[:3] == ["python", "-m", "launch.train"]

    submitted.statuses = {}
    status, said = command(MODULE, *flags)
    assert status == 0
    total = len(json.loads((run / "ladder.json").read_text())["runs"])
    assert f"3 of {total} runs are finished already" in said
    assert said.index("predicted: c1e12") < said.index("[1/1] c1e12")  # before it is trained
    assert len(submitted.jobs) == 5 + total - 3 + 1
    prediction = json.loads((run / "held_out-1e12.json").read_text())
    assert f"{prediction['name']}: " in said
    assert "inside its 95% interval" in said
    assert json.loads((run / "fit.json").read_text())["runs"] == total
    assert f"report: {run / 'report.html'}" in said

    count = len(submitted.jobs)
    status, said = command(MODULE, *flags)
    assert (status, len(submitted.jobs)) == (0, count)  # nothing is left to train

    submitted.statuses = {count + 1: 2}
    status, said = command(MODULE, *flags[:-1], "--flops=2e11")
    assert status == 1
    assert "failed: c2e11" in said


@pytest.mark.sweep
def test_a_ladder_that_is_trained(call, tiny_experiment, write_config, tmp_path):
    """Six runs of 20 steps and more, and a seventh that they predict; then all of it again, which trains nothing."""
    experiment = tiny_experiment(samples__prompts=(), checkpoints__keep_best=0)
    config = write_config(experiment, tmp_path / "tiny.py")
    flags = [f"--config={config}", f"--run={tmp_path / 'ladder'}", "--parameters=1.2e4,2e4,4e4", "--draws=20"]
    flags += ["--tokens_per_parameter=0.5,1.5", "--held_out=3e10"]
    first, second = call(MODULE, [flags, flags], devices=1)
    assert first.status == 0, first.err
    assert second.status == 0
    assert "runs are finished already" in second.out
    assert "[1/" not in second.out
    written = json.loads(next((tmp_path / "ladder").glob("held_out-*.json")).read_text())
    assert f"held out, predicted before it was trained:\n  {written['name']}" in second.out
    assert "of the prediction" in second.out
    for folder in (tmp_path / "ladder").glob("r*-n*"):
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert "<h2>Held out</h2>" in (tmp_path / "ladder" / "report.html").read_text()
