import bz2
import gzip
import lzma
import random
import sys

import pyarrow
import pytest

from model.errors import UserError
from train.data.text import compression
from train.data.text.compression import CHUNK, open_bytes, read_range


def zstd(content):
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
TEXT = bytes(random.Random(0).choices(b"abcdef\n", k=3 * CHUNK + 17))
suffixes = pytest.mark.parametrize("suffix", PACK)


@suffixes
def test_reads_every_byte_of_every_part_from_any_place(tmp_path, suffix):
    path = str(tmp_path / f"a.txt{suffix.upper()}")
    middle = CHUNK + 5
    for packed in (PACK[suffix](TEXT), PACK[suffix](TEXT[:middle]) + PACK[suffix](TEXT[middle:])):
        with open(path, "wb") as file:
            file.write(packed)
        with open_bytes(path) as file:
            assert file.read() == TEXT
            assert file.seek(2 * CHUNK) == 2 * CHUNK
            assert file.read(10) == TEXT[2 * CHUNK : 2 * CHUNK + 10]
            assert file.seek(7) == 7
            assert file.readline() == TEXT[7 : TEXT.index(b"\n", 7) + 1]
            assert file.seek(0, 2) == file.seek(10 * CHUNK) == len(TEXT)
        pieces = [read_range(path, k, k + 50_000) for k in range(0, len(TEXT) + 1, 50_000)]
        assert b"".join(pieces) == TEXT
        assert read_range(path, 3, 9) == TEXT[3:9]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_zeros_behind_the_end_are_nothing(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(PACK[suffix](b"one") + bytes(512))
    assert read_range(str(tmp_path / f"a{suffix}"), 0, 10) == b"one"


@suffixes
@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-5],
        lambda packed: packed[:7],
        lambda packed: b"",
        lambda packed: b"plain words\n",
        lambda packed: packed + b"more words",
        lambda packed: packed + packed[:30],
    ],
    ids=["cut at its end", "cut at its head", "empty", "no such file", "other bytes behind it", "second part cut"],
)
def test_damage_is_an_error_with_the_name_and_never_a_short_text(tmp_path, suffix, damage):
    path = tmp_path / f"pages.txt{suffix}"
    path.write_bytes(damage(PACK[suffix](TEXT)))
    with pytest.raises(UserError, match=rf"pages\.txt\{suffix} is a damaged or truncated \w+ file"):
        with open_bytes(str(path)) as file:
            file.read()


def test_a_wrong_checksum_is_damage(tmp_path):
    packed = bytearray(gzip.compress(TEXT))
    packed[-6] ^= 1
    (tmp_path / "a.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"a\.gz is a damaged or truncated gzip file: .*incorrect data check"):
        read_range(str(tmp_path / "a.gz"), 0, len(TEXT))


def test_ranges_read_in_order_cost_one_pass(tmp_path, monkeypatch):
    (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT))
    begun = []
    begin = compression._DecompressedFile._restart
    monkeypatch.setattr(compression._DecompressedFile, "_restart", lambda self: (begun.append(1), begin(self)))
    for k in range(0, len(TEXT), 10_000):
        read_range(str(tmp_path / "a.gz"), k, k + 10_000)
    assert len(begun) == 1


def test_little_of_a_large_text_is_in_memory(tmp_path):
    """64 MB of text in 64 kB: a gzip file of a text that repeats."""
    import tracemalloc

    with gzip.open(tmp_path / "a.gz", "wb") as file:
        for _ in range(64):
            file.write(b"the same words again and again\n" * ((1 << 20) // 31))
    tracemalloc.start()
    with open_bytes(str(tmp_path / "a.gz")) as file:
        assert file.seek(0, 2) == 64 * ((1 << 20) // 31) * 31
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_zstd_names_the_extra_that_reads_it(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(sys, "version_info", (3, 13))
    with pytest.raises(UserError, match=r'a\.zst: reading zstd needs .*pip install -e "\.\[zstd\]"'):
        read_range(str(tmp_path / "a.zst"), 0, 1)


def test_errors_of_the_system_name_the_file(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    for name in ("a.gz", "a.txt"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: Permission denied"):
            open_bytes(name)
