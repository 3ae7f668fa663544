"""Whole comparisons of folders, odd ones too: no part that is missing ends one."""

import json
import shutil

import pytest

from model.errors import UserError
from train.lab.comparison.comparison import BY_BYTES, compare
from train.lab.comparison.page import render
from train.lab.comparison.table import lines


def shown(found):
    """The terminal's lines, after the page and the JSON were made as well."""
    render(found)
    json.dumps(found.as_json(), allow_nan=False)
    return "\n".join(lines(found))


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A function that copies the run without some of its files."""

    def copy(*without, name="copy"):
        shutil.copytree(tiny_run, tmp_path / name, ignore=shutil.ignore_patterns(*without))
        return tmp_path / name

    return copy


def test_runs_that_differ_in_execution_alone_are_equal_in_every_number(tiny_run, spiky_run):
    found = compare(tiny_run, spiky_run, evaluate=False)
    assert found.divergence.first == []
    assert found.same_tokenizer
    assert found.notes == []
    changed = {c.name.partition(".")[0]: c.changes_results for c in found.changes if c.section == "config"}
    assert changed.keys() >= {"checkpoints", "samples", "spikes"}
    assert not any(changed.values())
    assert "nowhere: all 20 common logged steps are equal, up to 20" in shown(found)


def test_the_same_folder_twice(tiny_run):
    found = compare(tiny_run, tiny_run)
    assert found.paired is None
    assert "note: both are the same folder" in shown(found)
    assert found.changes == []


def test_an_unfinished_run_without_evaluation_and_checkpoint(tiny_run, copied):
    run = copied("checkpoints", "status.json", "evaluation.json")
    kept = [line for line in (run / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] < 5]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    found = compare(tiny_run, run)
    assert found.paired is None
    text = shown(found)
    assert "note: B is not finished (unknown, step 4)" in text
    assert "note: not evaluated on the same documents: " in text
    assert found.divergence.common_steps == 4


def test_no_common_steps_and_no_dataset(tiny_run, copied):
    run = copied("checkpoints", "data", "data.json")
    moved = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x | {"step": x["step"] + 100}) + "\n" for x in moved))
    found = compare(tiny_run, run)
    assert found.same_tokenizer is None
    assert "they have no logged step in common" in shown(found)
    assert [pair.name for pair in found.curves] == ["training loss", "validation loss"]  # the vocabularies are equal


def test_different_tokenizers_are_compared_by_bytes_and_it_says_so(tiny_run, copied, monkeypatch):
    run = copied("checkpoints")
    config = json.loads((run / "config.json").read_text())
    config["model"]["vocab_size"] = 999
    (run / "config.json").write_text(json.dumps(config))
    (run / "data.json").unlink()
    shutil.rmtree(run / "data")
    found = compare(tiny_run, run)
    assert BY_BYTES in found.notes
    assert [pair.name for pair in found.curves] == ["validation bits per byte"]
    assert {item.measure for item in found.recorded} == {"bits_per_byte"}


def test_damaged_files_are_named(tiny_run, copied):
    run = copied("checkpoints")
    (run / "metrics.jsonl").write_text("{broken\n" * 3)
    (run / "config.json").write_text("[")
    assert "note: B: " in shown(compare(tiny_run, run, evaluate=False))


def test_folders_that_are_no_runs_are_refused(tiny_run, tmp_path):
    with pytest.raises(UserError, match="is no run folder: it has no config"):
        compare(tiny_run, tmp_path)
    with pytest.raises(UserError, match="there is no run folder"):
        compare(tmp_path / "nowhere", tiny_run)
