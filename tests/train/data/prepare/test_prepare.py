import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from model.errors import UserError
from tests.train.data.conftest import change, contents, prose
from train.data import (
    Bytes,
    Characters,
    Data,
    HeldOutDocuments,
    SentencePiece,
    SeparateText,
    Source,
    Tail,
    open_dataset,
    prepare,
)
from train.data.prepare import tokenizing
from train.data.prepare.prepare import group_units
from train.data.prepare.progress import TerminalReporter
from train.data.prepare.summary import verify
from train.data.text.sources import Unit

ROOT = pathlib.Path(__file__).resolve().parents[4]
module = sys.modules[prepare.__module__]


def test_bytes_do_not_depend_on_workers(data, tmp_path, small_shards):
    option = change(data, tokenizer=SentencePiece(vocab_size=320))
    one = prepare(option, tmp_path / "one", workers=1)
    three = prepare(option, tmp_path / "three", workers=3)
    assert contents(one) == contents(three)
    dataset = open_dataset(one)
    assert len(dataset.splits["train"].shards) > 2
    assert verify(one) == len([n for n in contents(one) if n.endswith(".array_record")])


def test_interrupted_run_goes_on(data, tmp_path, small_shards, monkeypatch):
    whole = prepare(data, tmp_path / "whole", workers=1)
    run = tokenizing.JobRunner.run
    done = []

    def failing(self, job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job["name"])
        return run(self, job)

    monkeypatch.setattr(tokenizing.JobRunner, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tmp_path / "d", workers=1)
    with pytest.raises(UserError, match="not a finished dataset"):
        open_dataset(tmp_path / "d")
    again = []

    def noting(self, job):
        again.append(job["name"])
        return run(self, job)

    monkeypatch.setattr(tokenizing.JobRunner, "run", noting)
    # A damaged shard is made again; an intact shard is not.
    (tmp_path / "d" / f"train-{done[0]}.array_record").write_bytes(b"")
    prepare(data, tmp_path / "d", workers=1)
    assert done[0] in again
    assert done[1] not in again
    assert contents(tmp_path / "d") == contents(whole)


SLOW_WORKERS = """
import sys, time
if "train.data.prepare.worker" in sys.orig_argv:
    from train.data.prepare.tokenizing import JobRunner
    run = JobRunner.run
    JobRunner.run = lambda self, job: (time.sleep(0.3), run(self, job))[1]
"""


def test_killed_run_goes_on(data, corpus, tmp_path, small_shards):
    """SIGKILL while worker processes write: the same command, given again, ends with the same bytes."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_WORKERS)
    program = (
        "import sys; from train.data import *; m = sys.modules[prepare.__module__];"
        "m.MIN_SHARD_BYTES = 4000; m.BYTES_WORTH_A_PROCESS = 1;"
        f"data = Data(path={str(corpus)!r}, tokenizer=Bytes(), validation=HeldOutDocuments(fraction=0.1));"
        "prepare(data, sys.argv[1], workers=2)"
    )
    folder = tmp_path / "d"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment)
    while process.poll() is None and not list(folder.glob("part-*.json")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    prepare(data, folder, workers=2)
    assert contents(folder) == contents(prepare(data, tmp_path / "whole", workers=1))


FULL_DISK = """
import resource, signal, sys
from model.errors import UserError
from train.data import Bytes, Data, prepare
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    prepare(Data(path=sys.argv[1], tokenizer=Bytes(), validation=None), sys.argv[2])
except UserError as error:
    print(error)
"""


def test_full_disk_is_reported_and_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands for a disk that is full."""
    (tmp_path / "a.txt").write_text(prose(0, 300_000))
    arguments = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.txt"), str(tmp_path / "d")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert re.match(r"cannot write .*train-00000-of-00001\.array_record: .*the same command again", done.stdout), done
    assert not [p for p in (tmp_path / "d").iterdir() if "array_record" in p.name]
    data = Data(path=str(tmp_path / "a.txt"), tokenizer=Bytes(), validation=None)
    assert open_dataset(prepare(data, tmp_path / "d")).count("train", "tokens") == 300_000
    with pytest.raises(UserError, match="cannot make the folder"):
        prepare(data, tmp_path / "a.txt" / "d")


def test_tokenizer_sees_neither_validation_nor_tables(tmp_path, monkeypatch):
    for k in range(10):
        (tmp_path / f"{k}.py").write_text(prose(k, 800))
    (tmp_path / "table.py").write_text("".join(f"0x{k:04x}: {k},\n" for k in range(100)))
    seen = []
    make = module.make_tokenizer
    monkeypatch.setattr(module, "make_tokenizer", lambda o, texts: make(o, (seen.append(t) or t for t in texts)))
    data = Data(path=str(tmp_path), tokenizer=SentencePiece(vocab_size=300), validation=HeldOutDocuments(fraction=0.3))
    dataset = open_dataset(prepare(data, tmp_path / ".d"))
    split = dataset.splits["validation"]
    held = {dataset.tokenizer.decode(split.tokens(d)) for d in range(split.num_documents)}
    assert held
    assert not held & set(seen)
    assert len([t for t in seen if t]) == 10 - len(held)


def test_generated_tables_can_be_left_out(tmp_path):
    for k in range(10):
        (tmp_path / f"{k}.py").write_text(prose(k, 800))
    (tmp_path / "table.py").write_text("".join(f"0x{k:04x}: {k},\n" for k in range(100)))
    data = Data(path=str(tmp_path), tokenizer=Bytes())
    names = []
    for keep in (True, False):
        validation = HeldOutDocuments(fraction=0.3, keep_generated=keep)
        dataset = open_dataset(prepare(change(data, validation=validation), tmp_path / f".{keep}"))
        splits = dataset.splits.values()
        names.append({split.document_name(d) for split in splits for d in range(split.num_documents)})
    assert names[0] - names[1] == {"table.py"}
    assert len(names[0]) == 11


def test_separate_validation_text(tmp_path):
    (tmp_path / "train.txt").write_text("aaa")
    (tmp_path / "valid.txt").write_text("bb")
    data = Data(
        path=str(tmp_path / "train.txt"),
        tokenizer=Characters(),
        validation=SeparateText(path=str(tmp_path / "valid.txt")),
    )
    dataset = open_dataset(prepare(data, tmp_path / "d"))
    assert [dataset.count(name, "bytes") for name in ("train", "validation")] == [3, 2]
    (tmp_path / "valid.txt").write_text("cc")
    with pytest.raises(UserError, match="the validation text has changed"):
        prepare(data, tmp_path / "d")


def test_raw_text_needs_a_tokenizer(data, tmp_path):
    with pytest.raises(UserError, match=r"data\.tokenizer must say how"):
        prepare(change(data, tokenizer=None), tmp_path / "d")


def test_mixtures_share_a_tokenizer(corpus, data, dataset, tmp_path):
    (tmp_path / "b.txt").write_text(prose(99, 2000))
    sources = (Source(path=str(dataset.folder)), Source(path=str(tmp_path / "b.txt"), weight=2))
    option = change(data, path=sources, tokenizer=None, validation=Tail())
    mixture = open_dataset(prepare(option, tmp_path / "d"))
    assert [m.folder for m in mixture.members] == [dataset.folder.resolve(), tmp_path / "d" / "source-1"]
    assert mixture.count("train", "tokens") == dataset.count("train", "tokens") + 1800
    assert mixture.tokenizer.fingerprint() == dataset.tokenizer.fingerprint()
    assert prepare(option, tmp_path / "d") == tmp_path / "d"
    with pytest.raises(UserError, match="another tokenizer than the rest"):
        prepare(change(option, tokenizer=Characters()), tmp_path / "e")


def test_groups_keep_order_and_size():
    units = [
        Unit("text", f"{k}", f"{k}", 0, size, 0, size, "text") for k, size in enumerate([3 << 20] * 40 + [1 << 30])
    ]
    groups = group_units(units)
    assert [u for g in groups for u in g] == units
    assert all(sum(u.bytes for u in g) <= 1144 * (1 << 20) // 64 for g in groups[:-1])


def test_an_uneven_split_of_few_documents_is_said(tmp_path, capsys):
    for k, size in enumerate((300, 200)):
        (tmp_path / f"{k}.txt").write_text(prose(k, size))
    option = Data(path=str(tmp_path / "*.txt"), tokenizer=Bytes(), validation=HeldOutDocuments(fraction=0.1))
    prepare(option, tmp_path / "d", TerminalReporter(), workers=1)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(said) == 1
    assert said[0].startswith("WARNING: 40.0% of the text is held out for validation (200 of 500 bytes), where")
    prepare(change(option, validation=Tail(fraction=0.1)), tmp_path / "even", TerminalReporter(), workers=1)
    assert "WARNING" not in capsys.readouterr().err
