"""The runs of a ladder on disk: planned, skipped, failed, read."""

import pytest

from configs.shakespeare_char import experiment as shakespeare
from model.errors import UserError
from tests.train.lab.scaling.ladder.ladders import TRUTH, finish
from train.lab.scaling.ladder.plan import Planner
from train.lab.scaling.ladder.runs import (
    final_loss,
    finished_runs,
    is_finished,
    points_of,
    read_plan,
    record_plan,
    rows_of,
    train_all,
)


@pytest.fixture(scope="module")
def rungs():
    return Planner(shakespeare).isoflop([3e10, 1e11], sizes=4, spread=2, ratio=1)


def test_done_runs_are_skipped_and_failed_ones_do_not_stop_the_rest(rungs, tmp_path):
    finish(tmp_path / rungs[0].name, rungs[0])
    started, said = [], []

    def start(rung):
        started.append(rung.name)
        return 2 if rung is rungs[3] else finish(tmp_path / rung.name, rung)

    assert train_all(tmp_path, rungs, start, said.append) == [rungs[3].name]
    costs = {rung.name: rung.flops for rung in rungs}
    assert sorted(started) == sorted(rung.name for rung in rungs[1:])
    assert [costs[name] for name in started] == sorted(costs[name] for name in started)
    assert said[0] == f"1 of {len(rungs)} runs are finished already"
    assert any(f"{rungs[3].name} failed with status 2" in line for line in said)
    started.clear()
    assert train_all(tmp_path, rungs, start, said.append) == [rungs[3].name]
    assert started == [rungs[3].name]  # the same command tries it again, and only it


def test_an_interrupt_ends_the_ladder(rungs, tmp_path):
    def start(rung):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_all(tmp_path, rungs, start, lambda line: None)


def test_the_loss_of_a_run_is_that_of_its_last_step(rungs, tmp_path):
    run, rung = tmp_path / "run", rungs[0]
    assert final_loss(run) is None
    finish(run, rung)
    with (run / "metrics.jsonl").open("a") as file:  # an earlier, better one, and another text
        file.write('{"step": 1, "kind": "eval", "loss": 0.5}\n')
        file.write(f'{{"step": {rung.steps}, "kind": "eval", "name": "code", "loss": 0.25}}\n')
    assert final_loss(run) == pytest.approx(TRUTH.loss(rung.parameters, rung.tokens))
    finish(run, rung, state="interrupted")
    assert not is_finished(run)
    finish(run, rung, loss=float("nan"))
    assert not is_finished(run)  # a run that diverged has no loss to fit


def test_points_curves_and_rows(rungs, tmp_path):
    record_plan(tmp_path, "configs/a.py", [], rungs)
    for rung in rungs[:3]:
        finish(tmp_path / rung.name, rung)
    done = finished_runs(tmp_path, read_plan(tmp_path)["runs"])
    points = points_of(done)
    assert points.parameters.tolist() == [rung.parameters for rung in rungs[:3]]
    assert points.flops.tolist() == [rung.flops for rung in rungs[:3]]
    assert points.loss == pytest.approx(TRUTH.loss(points.parameters, points.tokens))
    assert done[0].curve.flops[-1] == rungs[0].flops
    assert len(done[0].curve.loss) == min(50, rungs[0].steps)
    assert done[0].epochs is None  # these folders have no dataset
    assert [row["name"] for row in rows_of(done)] == [rung.name for rung in rungs[:3]]


def test_a_ladder_grows_and_keeps_its_base(rungs, tmp_path):
    record_plan(tmp_path, "configs/a.py", ["data.path=x"], rungs[:2])
    record_plan(tmp_path, "configs/a.py", ["data.path=x"], rungs[1:3])
    assert [entry["name"] for entry in read_plan(tmp_path)["runs"]] == [rung.name for rung in rungs[:3]]
    with pytest.raises(UserError, match=r"holds a ladder with settings \['data.path=x'\], not \[\]"):
        record_plan(tmp_path, "configs/a.py", [], rungs)
    with pytest.raises(UserError, match="holds a ladder with config configs/a.py, not configs/b.py"):
        record_plan(tmp_path, "configs/b.py", ["data.path=x"], rungs)
    other = Planner(shakespeare, rate_exponent=-1.0).isoflop([3e10], sizes=4, spread=2, ratio=1)
    with pytest.raises(UserError, match="was planned with .* now it would be .*schedule.peak="):
        record_plan(tmp_path, "configs/a.py", ["data.path=x"], other)


def test_other_folders_are_refused(rungs, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files and no ladder\.json"):
        record_plan(tmp_path, "configs/a.py", [], rungs)
    with pytest.raises(UserError, match="is no ladder"):
        read_plan(tmp_path)
    (tmp_path / "ladder.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"ladder\.json"):
        read_plan(tmp_path)
