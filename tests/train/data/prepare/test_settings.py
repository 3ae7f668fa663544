import json
import pathlib

import pytest

from model.errors import UserError
from tests.train.data.conftest import change, contents, prose
from train.data import (
    Bytes,
    Characters,
    HeldOutDocuments,
    Tail,
    TokenizerOf,
    prepare,
)
from train.data.prepare.settings import FILE


def test_second_call_changes_nothing_and_needs_no_text(corpus, data, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for k in range(6):
        (text / f"{k}.txt").write_text(prose(k, 300))
    option = change(data, path=str(text))
    folder = prepare(option, tmp_path / "d")
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert prepare(option, folder) == folder
    moved = text.rename(tmp_path / "moved")
    assert prepare(option, folder) == folder  # the text is gone
    assert prepare(change(option, path=str(moved)), folder) == folder  # the same text under another name
    (moved / "0.txt").write_text("other")
    with pytest.raises(UserError, match=r"the text: .*text -> .*moved"):
        prepare(change(option, path=str(moved)), folder)
    moved.rename(text)
    with pytest.raises(UserError, match=r"the text of .*text has changed"):
        prepare(option, folder)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }


def test_other_settings_are_refused_field_by_field(data, tmp_path):
    folder = prepare(data, tmp_path / "d")
    for fields, message in [
        ({"tokenizer": Bytes(end_of_document=False)}, "tokenizer.end_of_document: True -> False"),
        ({"validation": HeldOutDocuments(fraction=0.3)}, r"validation.fraction: 0.1 -> 0.3"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare(change(data, **fields), folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        prepare(data, tmp_path / "full")


def test_a_folder_that_a_mistake_left_behind_is_begun_anew(data, tmp_path):
    def refuse(tokenizer, folder):
        raise UserError(f"{tokenizer.vocab_size} tokens for {folder}")

    folder = tmp_path / "d"
    with pytest.raises(UserError, match="257 tokens for .*d$"):
        prepare(data, folder, check=refuse)
    assert not list(folder.glob("*.array_record"))  # nothing was tokenized before the check
    with pytest.raises(UserError, match="no text is left to train on"):
        prepare(change(data, validation=Tail(fraction=0.99999999)), folder)
    prepare(change(data, tokenizer=Characters()), folder)
    assert contents(folder) == contents(prepare(change(data, tokenizer=Characters()), tmp_path / "new"))


def test_finished_dataset_as_path(data, dataset):
    folder = str(dataset.folder)
    assert prepare(change(data, path=folder), "unused") == dataset.folder
    assert prepare(change(data, path=folder, tokenizer=None, validation=None), "unused") == dataset.folder
    assert prepare(change(data, path=folder, tokenizer=TokenizerOf(path=folder)), "unused") == dataset.folder
    with pytest.raises(UserError, match=r"set data.tokenizer=None"):
        prepare(change(data, path=folder, tokenizer=Characters()), "unused")
    with pytest.raises(UserError, match=r"data.validation.fraction: 0.1 -> 0.5"):
        prepare(change(data, path=folder, validation=HeldOutDocuments(fraction=0.5)), "unused")
    assert not pathlib.Path("unused").exists()


def test_settings_with_the_earlier_name_of_held_out_documents_are_those_of_today(data, tmp_path):
    folder = prepare(data, tmp_path / "d")
    stored = json.loads((folder / FILE).read_text())
    assert stored["validation"]["type"] == "HeldOutDocuments"
    stored["validation"]["type"] = "WholeFiles"
    (folder / FILE).write_text(json.dumps(stored))
    assert prepare(data, folder) == folder
    assert prepare(change(data, path=str(folder)), "unused") == folder
    with pytest.raises(UserError, match=r"validation.fraction: 0.1 -> 0.3"):
        prepare(change(data, validation=HeldOutDocuments(fraction=0.3)), folder)
