"""The comparison of a run: its files record the requested sizes, and are made again only for another request."""

import json
import shutil

import pytest

from train.checkpoints.store import CheckpointStore
from train.evaluation.baselines import text_baselines
from train.evaluation.comparison import compare_with_baselines
from train.evaluation.documents import split_text
from train.evaluation.evaluate import evaluate
from train.run.loading import latest_step, load_run

SAID = ["measuring the validation files", "compressing the same files", "letting the model write"]


def test_it_is_made_once_for_a_checkpoint_and_its_sizes(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    said = []
    compare_with_baselines(folder, num_files=2, file_tokens=4, say=said.append)
    assert [line.split(",")[0].split(" with")[0].split(" 2")[0] for line in said] == SAID
    found = json.loads((folder / "evaluation.json").read_text())
    run = load_run(folder)
    assert (found["step"], found["num_files"], found["file_tokens"]) == (20, 2, 4)
    expected = evaluate(run).as_json()
    assert found["validation"] == pytest.approx({name: expected[name] for name in found["validation"]})
    baselines = text_baselines(*(split_text(run.dataset(), split) for split in ("validation", "train")))
    assert [(b["name"], b["compressed_bytes"]) for b in found["baselines"]] == [
        (b.name, b.compressed_bytes) for b in baselines
    ]
    assert (folder / "files.txt").read_text().count("=== file ") == 2

    compare_with_baselines(folder, num_files=2, file_tokens=4, say=said.append)
    assert len(said) == 3  # all of it is there
    compare_with_baselines(folder, num_files=1, file_tokens=4, say=said.append)
    assert len(said) == 6
    (folder / "evaluation.json").write_text("{")  # what cannot be read is made anew
    compare_with_baselines(folder, num_files=0, file_tokens=4, say=said.append)
    assert len(said) == 9
    assert (folder / "files.txt").read_text() == ""


def test_a_comparison_that_is_current_restores_nothing(tiny_run, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    asked = {"step": 20, "num_files": 2, "file_tokens": 4}
    (folder / "evaluation.json").write_text(json.dumps(asked))
    read = []
    monkeypatch.setattr(CheckpointStore, "_read_arrays", lambda self, step, item, abstract: read.append(step))
    compare_with_baselines(folder, num_files=2, file_tokens=4)
    assert not read
    assert json.loads((folder / "evaluation.json").read_text()) == asked


def test_a_comparison_of_the_checkpoint_before_a_damaged_one_is_current(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    assert latest_step(folder) == 20
    (folder / "checkpoints" / "20" / "note" / "metadata").write_text("{")
    (folder / "evaluation.json").write_text(json.dumps({"step": 10, "num_files": 2, "file_tokens": 4}))
    said = []
    compare_with_baselines(folder, num_files=2, file_tokens=4, say=said.append)
    assert not said
    assert load_run(folder).step == 10
