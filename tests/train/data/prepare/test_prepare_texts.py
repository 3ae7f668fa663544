"""Preparing texts that are not plain: names of any bytes, other locales, tables without text, files left out."""

import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from model.errors import UserError
from tests.train.data.conftest import change, contents, prose
from train.data import Bytes, Data, HeldOutDocuments, Reporter, open_dataset, prepare
from train.data.prepare import workers

ROOT = pathlib.Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("validation", [HeldOutDocuments(), None])
def test_a_table_without_text_is_named(tmp_path, validation):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": ""}\n')
    option = Data(path=str(tmp_path / "a.jsonl"), tokenizer=Bytes(), validation=validation)
    with pytest.raises(UserError, match=r"a\.jsonl: no text in it, only empty documents"):
        prepare(option, tmp_path / "d")


def test_what_is_left_out_is_said_once(data, tmp_path):
    (tmp_path / ".git").touch()
    for k in range(4):
        (tmp_path / f"{k}.txt").write_text(prose(k, 900))
    said = []

    class Noting(Reporter):
        def message(self, text):
            said.append(text)

    option = change(data, path=str(tmp_path), validation=HeldOutDocuments(fraction=0.3))
    prepare(option, tmp_path / ".d", progress=Noting())
    assert said == [f"{tmp_path}: left out hidden files and caches: .d, .git"]


LATIN = """
import os, sys
assert sys.getfilesystemencoding() == "ascii" and "\\udcc3" in sys.argv[1]
from train.data import Bytes, Data, prepare
m = sys.modules[prepare.__module__]
m.MIN_SHARD_BYTES, m.BYTES_WORTH_A_PROCESS = 4000, 1
prepare(Data(path=sys.argv[1], tokenizer=Bytes()), sys.argv[2], workers=2)
"""


def test_names_are_the_same_in_every_locale_and_in_every_worker(data, tmp_path, small_shards):
    text = tmp_path / "été"
    text.mkdir()
    for k in range(4):
        (text / os.fsdecode(b"caf\xe9 %d.txt" % k)).write_text(prose(k, 3000))
        (text / f"ö{k}.txt").write_text(prose(10 + k, 3000))
    here = prepare(Data(path=str(text), tokenizer=Bytes()), tmp_path / "dé", workers=2)
    there = tmp_path / "ü"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", LATIN, text, there], cwd=ROOT, env=environment, check=True)
    assert contents(there) == {**contents(here), "settings.json": (there / "settings.json").read_bytes()}
    names = {s.document_name(d) for s in open_dataset(there).splits.values() for d in range(s.num_documents)}
    assert names == {f"ö{k}.txt" for k in range(4)} | {f"caf\\xe9 {k}.txt" for k in range(4)}
    assert (
        json.loads((there / "settings.json").read_text())["texts"]
        == json.loads((here / "settings.json").read_text())["texts"]
    )


def test_a_worker_reads_the_letters_of_a_path_as_they_are_read_here(monkeypatch):
    """In a Latin-1 locale a worker that uses UTF-8 would look for another file: paths are sent as text."""
    started = []

    class Process:
        def __init__(self, *given, env, **options):
            started.append(env)

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(utf8_mode=0))
    workers._Process({})
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(utf8_mode=1))
    workers._Process({})
    assert [env["PYTHONUTF8"] for env in started] == ["0", "1"]


def test_a_folder_of_text_may_have_a_dataset_json(data, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps([prose(k, 900) for k in range(9)]))
    dataset = open_dataset(prepare(change(data, path=str(tmp_path)), tmp_path / "d"))
    assert sum(dataset.count(name, "documents") for name in ("train", "validation")) == 9
