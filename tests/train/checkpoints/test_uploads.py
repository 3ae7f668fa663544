"""A checkpoint in a store without one of its files is not complete, whichever file is missing."""

import json
import pathlib
import shutil

import pytest

from train.checkpoints.files import DIGESTS_FILE
from train.checkpoints.uploads import complete_steps, missing_file


@pytest.fixture
def folder(tiny_run, tmp_path):
    return shutil.copytree(tiny_run / "checkpoints", tmp_path / "checkpoints")


def test_every_file_of_the_record_is_needed(folder):
    checkpoint = folder / "20"
    assert missing_file(checkpoint) is None
    names = [DIGESTS_FILE, *json.loads((checkpoint / DIGESTS_FILE).read_text())]
    assert {name.partition("/")[0] for name in names} == {DIGESTS_FILE, "params", "rest", "note"}
    for name in names:
        (checkpoint / name).rename(folder / "away")
        assert missing_file(checkpoint) == name
        (folder / "away").rename(checkpoint / name)
    shutil.rmtree(checkpoint / "rest")
    assert missing_file(checkpoint).startswith("rest/")


def test_steps_that_are_not_complete_are_named_and_left_out(folder):
    said = []
    assert complete_steps(folder, (20, 10), said.append) == {10, 20}
    assert said == []
    (folder / "10" / "note" / "metadata").unlink()
    assert complete_steps(folder, (20, 10), said.append) == {20}
    (line,) = said
    assert line.startswith(f"checkpoint 10 in {folder} is ignored because note/metadata is not there")


def test_only_checkpoints_of_the_first_format_may_have_no_record(folder):
    checkpoint = folder / "20"
    (checkpoint / DIGESTS_FILE).unlink()
    note = checkpoint / "note" / "metadata"
    stored = json.loads(note.read_text())
    for number, missing in ((1, None), (2, DIGESTS_FILE), (stored["format"], DIGESTS_FILE)):
        note.write_text(json.dumps(stored | {"format": number}))
        assert missing_file(checkpoint) == missing
    for content in ("[1]", "{"):
        note.write_text(content)
        assert missing_file(checkpoint) == DIGESTS_FILE
    note.unlink()
    assert missing_file(checkpoint) == DIGESTS_FILE


@pytest.mark.parametrize("content", ["{", "[1]", "1", '"a"'])
def test_a_damaged_record_is_no_missing_file(content, folder):
    (folder / "20" / DIGESTS_FILE).write_text(content)
    assert missing_file(folder / "20") is None


def test_a_file_that_was_there_a_moment_ago_is_missing(folder, monkeypatch):
    """Another process removes a checkpoint while its files are looked for: the record first."""
    for name in ("exists", "is_dir"):
        monkeypatch.setattr(pathlib.Path, name, lambda path: True)
    shutil.rmtree(folder / "10" / "rest")
    assert missing_file(folder / "10").startswith("rest/")
    (folder / "20" / DIGESTS_FILE).unlink()
    assert missing_file(folder / "20") == DIGESTS_FILE
    assert complete_steps(folder, (20, 10), [].append) == set()
