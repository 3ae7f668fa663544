"""The comparison of a run: its files record the requested sizes, and are made again only for another request."""

import json
import shutil

import pytest

from train.evaluation.baselines import text_baselines
from train.evaluation.comparison import compare_with_baselines
from train.evaluation.documents import split_text
from train.evaluation.evaluate import evaluate
from train.run.loading import load_run

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
