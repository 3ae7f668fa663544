"""A step that is done again: the same bits, and sums that are those of the step."""

import dataclasses
import json
import math
import shutil
import types

import numpy as np
import pytest

from model.errors import UserError
from train.hooks.spikes import noted_steps, read_note
from train.lab import replay as module
from train.lab.replay import RowLoss, recorded_values, replay, worst_targets
from train.run.metrics import read_metrics


def lines_of(run):
    return {line["step"]: line for line in read_metrics(run) if line["kind"] == "train"}


@pytest.fixture(scope="module")
def replayed(spiky_run):
    """The last spike of a run, done again."""
    (step,) = noted_steps(spiky_run)[-1:]
    done = []
    return replay(spiky_run, step, worst_rows=3, on_progress=done.append), done


def test_the_state_before_the_spike_is_kept_and_gives_the_same_bits(replayed, spiky_run):
    found, done = replayed
    note = read_note(spiky_run, found.step)
    kept = sorted(int(path.name) for path in (spiky_run / "checkpoints").iterdir())
    assert kept == [(found.step - 1) // 3 * 3, 20]  # the last one before the spike, beside `keep_last`
    assert found.restored == kept[0]
    assert done == list(range(found.restored + 1, found.step + 1))
    assert (found.loss, found.grad_norm) == (note["scalars"]["loss"], note["scalars"]["grad_norm"])
    assert (found.is_equal, found.compared) == (True, len(done))
    assert found.loss == lines_of(spiky_run)[found.step]["loss"]


def test_documents_rows_and_layers_add_up_to_the_step(replayed):
    found, _ = replayed
    counted = sum(document.targets for document in found.documents)
    total = sum(document.targets * document.loss for document in found.documents)
    assert total / counted == pytest.approx(found.loss, rel=1e-6)
    assert math.sqrt(sum(layer.norm**2 for layer in found.layers)) == pytest.approx(found.grad_norm, rel=1e-5)
    assert [layer.norm for layer in found.layers] == sorted((layer.norm for layer in found.layers), reverse=True)
    assert {layer.place for layer in found.layers} == {"embedding", "layer 0", "layer 1", "final_norm"}
    assert [document.loss for document in found.documents] == sorted((d.loss for d in found.documents), reverse=True)
    worst = found.rows[0]
    assert len(found.rows) == 3
    assert worst.loss >= found.rows[1].loss >= found.rows[2].loss
    own = [document for document in found.documents if document.row == worst.row]
    assert sum(d.targets * d.loss for d in own) == pytest.approx(math.fsum(worst.losses))
    assert "".join(worst.targets).startswith(min(own, key=lambda document: document.columns).text[:5])


def test_without_a_checkpoint_it_runs_from_the_initial_state_and_tells_another_run_apart(spiky_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spiky_run, run, ignore=shutil.ignore_patterns("checkpoints", "spikes"))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    changed = json.loads(lines[0])
    changed["loss"] = float(np.nextafter(np.float32(changed["loss"]), np.float32(9)))
    (run / "metrics.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    found = replay(run, 2)
    assert found.loss == lines_of(spiky_run)[2]["loss"] == found.recorded["loss"]
    assert (found.restored, found.is_equal, found.first_difference, found.compared) == (0, False, 1, 2)
    (run / "metrics.jsonl").unlink()
    assert recorded_values(run, 20) == {}
    assert dataclasses.replace(found, compared=0, first_difference=None).is_equal is None


def test_a_step_before_a_branch_is_refused(spiky_run, monkeypatch):
    monkeypatch.setattr(module, "_state_before", lambda run, experiment, step: types.SimpleNamespace(step=10))
    with pytest.raises(UserError, match="--step=10: this run is a branch that begins after step 10; give a later one"):
        replay(spiky_run, 10)


def test_steps_that_the_run_has_not_are_refused(spiky_run, tmp_path):
    for step in (0, 21):
        with pytest.raises(UserError, match=rf"--step={step}: this run has the steps 1 to 20"):
            replay(spiky_run, step)
    with pytest.raises(UserError, match="is no run folder"):
        replay(tmp_path, 1)


def test_targets_that_are_not_finite_come_first():
    row = RowLoss(0, math.nan, ("a", "b", "c", "d"), (1.0, math.nan, 3.0, math.inf))
    assert worst_targets(row, 3) == [1, 3, 2]
