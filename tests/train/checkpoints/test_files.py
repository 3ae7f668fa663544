import json
import os
import shutil
import threading
import zlib

import pytest
import tensorstore

from model.parameters.names import flatten
from tests.train.states import at_step, open_store
from train.checkpoints import files as checkpoint_files
from train.checkpoints.files import (
    DIGESTS_FILE,
    MissingError,
    first_difference,
    record_digests,
    require_arrays,
    require_note,
    synced_early,
)


@pytest.fixture(scope="module")
def saved(experiment, first, tmp_path_factory):
    run = tmp_path_factory.mktemp("saved")
    with open_store(run) as store:
        store.save(experiment, at_step(first, 10), 10, loss=None)
    return run / "checkpoints" / "10"


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "10")


@pytest.fixture(scope="module")
def shapes(first):
    return {name: x.shape for name, x in flatten(first.params).items()}


def database(item):
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}).result()


# ---------------------------------------------------------------------------------------------------- all is there


def test_a_save_has_every_array(copied, shapes, first):
    require_arrays(copied / "params", shapes)
    scalars = {name: x.shape for name, x in flatten(first).items() if not name.startswith("params.")}
    require_arrays(copied / "rest", scalars)


def test_what_is_missing_is_named(copied, shapes):
    with pytest.raises(MissingError, match=r"^other is not in params$"):
        require_arrays(copied / "params", shapes | {"other": (3,)})
    with pytest.raises(MissingError, match=r"final_norm.scale is in params with shape \[32\], expected \[33\]"):
        require_arrays(copied / "params", shapes | {"final_norm.scale": (33,)})
    store = database(copied / "params")
    (piece,) = (key for key in store.list().result() if key.startswith(b"embedding.table/") and b"zarray" not in key)
    del store[piece]
    with pytest.raises(MissingError, match=r"^the chunk embedding.table/0.0 is not in params$"):
        require_arrays(copied / "params", shapes)
    del store[b"embedding.table/.zarray"]
    with pytest.raises(MissingError, match=r"^embedding.table is not in params$"):
        require_arrays(copied / "params", shapes)
    for name in ("_METADATA", "manifest.ocdbt"):
        (copied / "params" / name).unlink()
        with pytest.raises(MissingError, match=rf"^params has no {name}$"):
            require_arrays(copied / "params", shapes)


def test_a_note_is_the_one_that_was_given(copied):
    note = json.loads((copied / "note" / "metadata").read_text())
    require_note(copied / "note", note)
    require_note(copied / "note", dict(reversed(note.items())))
    with pytest.raises(MissingError, match="^note is not the one that was given$"):
        require_note(copied / "note", note | {"step": 11})
    (copied / "note" / "metadata").write_text("{")
    with pytest.raises(MissingError, match="^note is not there: Expecting"):
        require_note(copied / "note", note)
    (copied / "note" / "metadata").unlink()
    with pytest.raises(MissingError, match="^note is not there: .*No such file"):
        require_note(copied / "note", note)


def test_a_piece_whose_file_is_gone_or_short_is_missing(copied, shapes):
    largest = max((copied / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises((MissingError, ValueError)):
        require_arrays(copied / "params", shapes)
    largest.unlink()
    with pytest.raises((MissingError, ValueError)):
        require_arrays(copied / "params", shapes)


# ------------------------------------------------------------------------------------------------- what was written


def test_a_save_is_recorded(copied):
    recorded = json.loads((copied / DIGESTS_FILE).read_text())
    written = {str(path.relative_to(copied)) for path in copied.glob("*/**/*") if path.is_file()}
    assert set(recorded) == written
    assert all(size == (copied / name).stat().st_size and digest for name, (size, digest) in recorded.items())
    assert first_difference(copied) == (None, True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, expected"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "is not what was written"),
    ],
    ids=["removed", "cut", "other"],
)
@pytest.mark.parametrize("name", ["params/_METADATA", "rest/manifest.ocdbt", "note/metadata"])
def test_a_file_that_is_not_as_it_was_recorded_is_named(name, change, expected, copied):
    change(copied / name)
    wrong, _ = first_difference(copied)
    assert wrong.startswith(f"{name} ")
    assert expected in wrong


def test_a_missing_item_is_named_whatever_is_recorded(copied):
    (copied / DIGESTS_FILE).unlink()
    assert first_difference(copied) == (None, False)  # as before there were records
    shutil.rmtree(copied / "rest")
    assert first_difference(copied) == ("rest is missing", False)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"note/metadata": 3}', b"\xff"])
def test_a_record_that_is_damaged_is_named(content, copied):
    (copied / DIGESTS_FILE).write_bytes(content)
    assert first_difference(copied) == (f"{DIGESTS_FILE} is not what was written", False)


def test_a_large_file_is_compared_too(copied, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "SMALL_FILE_BYTES", 5000)
    record_digests(copied)
    recorded = json.loads((copied / DIGESTS_FILE).read_text())
    large = {name for name, (_, digest) in recorded.items() if digest.startswith("crc32 ")}
    assert large == {name for name, (size, _) in recorded.items() if size > 5000}
    assert large
    assert first_difference(copied) == (None, True)
    path = copied / min(large)
    data = bytearray(path.read_bytes())
    assert recorded[min(large)][1] == f"crc32 {zlib.crc32(data):08x}"
    data[-1] ^= 1
    path.write_bytes(data)
    assert first_difference(copied) == (f"{min(large)} is not what was written", False)
    os.truncate(path, 5001)
    assert first_difference(copied)[0].startswith(f"{min(large)} has 5001 bytes, expected ")


def test_of_a_large_file_without_a_digest_the_size_alone_is_compared(copied):
    """As in the records that were written before November 2026."""
    recorded = json.loads((copied / DIGESTS_FILE).read_text())
    large = max(recorded, key=lambda name: recorded[name][0])
    recorded[large][1] = None
    (copied / DIGESTS_FILE).write_text(json.dumps(recorded))
    assert first_difference(copied) == (None, False)
    os.truncate(copied / large, 5001)
    assert first_difference(copied)[0].startswith(f"{large} has 5001 bytes, expected ")


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(copied):
    path = copied / "params" / "_METADATA"
    path.unlink()
    path.symlink_to(path)  # a loop
    with pytest.raises(OSError, match="Too many levels"):
        first_difference(copied)


def test_new_files_are_synced_while_others_are_written(tmp_path, monkeypatch):
    synced, both = [], threading.Event()

    def noted(path):
        synced.append(path.name)
        if len(synced) == 2:
            both.set()

    monkeypatch.setattr(checkpoint_files, "sync_path", noted)
    with synced_early(tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "b.__lock").write_bytes(b"not complete")
        (tmp_path / "d" / "a").write_bytes(b"complete")
        (tmp_path / "c").write_bytes(b"complete")
        assert both.wait(60)
    assert sorted(synced) == ["a", "c"]
