import os
import pathlib
import warnings
import zlib

import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache

import train.process.compilation_cache
from launch.command import cli
from train.process.compilation_cache import remove_broken_entries

WHOLE = zlib.compress(bytes(range(256)) * 5000)


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        (WHOLE, False),
        (WHOLE[:-1], True),
        (WHOLE[: len(WHOLE) // 2], True),
        (WHOLE[:1], True),
        (b"", True),
        (bytes(5000), True),
        (WHOLE[:200] + bytes(len(WHOLE) - 200), True),
        (b"\x28\xb5\x2f\xfd" + WHOLE, False),  # Zstandard, where nothing is installed that reads it
        (b"an entry of another format", False),
    ],
    ids=["whole", "less a byte", "half", "one byte", "empty", "zeros", "zeros at its end", "zstd", "unknown"],
)
def test_an_entry_that_was_cut_short_is_removed_and_no_other(content, broken, tmp_path, monkeypatch):
    monkeypatch.setattr(train.process.compilation_cache, "_zstd", lambda: None)
    (tmp_path / "jit_step-1-cache").write_bytes(content)
    (tmp_path / "jit_step-2-cache").write_bytes(WHOLE)
    (tmp_path / "jit_step-1-atime").write_bytes(b"")
    assert remove_broken_entries(tmp_path) == (["jit_step-1-cache"] if broken else [])
    left = {"jit_step-2-cache", "jit_step-1-atime", ".cairn-checked"} | (set() if broken else {"jit_step-1-cache"})
    assert {path.name for path in tmp_path.iterdir()} == left


def test_zstandard_is_read_by_the_library_that_wrote_it(tmp_path, monkeypatch):
    class Decompressor:
        eof = False

        def decompress(self, data):
            if b"wrong" in data:
                raise KeyError
            self.eof = data.endswith(b"end")

    monkeypatch.setattr(train.process.compilation_cache, "_zstd", lambda: (Decompressor(), (KeyError,)))
    for name, content in (("a", b"end"), ("b", b""), ("c", b"wrong")):
        (tmp_path / f"{name}-cache").write_bytes(b"\x28\xb5\x2f\xfd" + content)
        removed = remove_broken_entries(tmp_path)
        assert removed == ([] if name == "a" else [f"{name}-cache"])


def test_only_what_came_since_the_last_look_is_read(tmp_path, monkeypatch):
    looked, look = [], train.process.compilation_cache._is_broken
    monkeypatch.setattr(
        train.process.compilation_cache, "_is_broken", lambda path: looked.append(pathlib.Path(path).name) or look(path)
    )
    (tmp_path / "old-cache").write_bytes(WHOLE)
    remove_broken_entries(tmp_path)
    os.utime(tmp_path / ".cairn-checked", (2e9, 2e9))  # as if the look had been long after
    remove_broken_entries(tmp_path)
    assert looked == ["old-cache"]
    os.utime(tmp_path / ".cairn-checked", (1e9, 1e9))
    (tmp_path / "new-cache").write_bytes(WHOLE[:9])
    os.utime(tmp_path / "new-cache", (1, 1))  # a copy with the time of the original
    assert remove_broken_entries(tmp_path) == ["new-cache"]


def test_an_entry_that_another_process_takes_away_is_no_error(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}-cache").write_bytes(b"")
    look = train.process.compilation_cache._is_broken

    def taken(path):
        broken = look(path)
        os.unlink(path)
        return broken

    monkeypatch.setattr(train.process.compilation_cache, "_is_broken", taken)
    assert remove_broken_entries(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [".cairn-checked"]


def test_a_folder_that_is_not_there_is_left_so(tmp_path):
    assert remove_broken_entries(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


@pytest.fixture
def settings():
    """jax's settings of its cache, put back after the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_command_removes_them_when_it_starts(tmp_path, settings, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    (tmp_path / "jit_step-1-cache").write_bytes(WHOLE[:100])
    (tmp_path / "jit_step-2-cache").write_bytes(WHOLE)
    cli.prepare_jax()
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["jit_step-2-cache"]


def test_jax_writes_entries_that_are_recognised(tmp_path, settings):
    """An entry that jax itself wrote is complete; half of it makes jax warn, and is removed."""

    def compile_again():
        jax.clear_caches()
        compilation_cache.reset_cache()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            jax.jit(lambda x: jnp.sin(x) + 41)(jnp.ones(3)).block_until_ready()
        return [str(each.message) for each in said if "compilation cache" in str(each.message)]

    settings.update("jax_compilation_cache_dir", str(tmp_path))
    settings.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    assert compile_again() == []
    entries = sorted(tmp_path.glob("*-cache"))
    assert entries
    assert remove_broken_entries(tmp_path) == []
    for entry in entries:
        os.truncate(entry, entry.stat().st_size // 2)
    assert compile_again() != []
    assert remove_broken_entries(tmp_path) == [entry.name for entry in entries]
    assert compile_again() == []
    assert sorted(tmp_path.glob("*-cache")) == entries
    assert remove_broken_entries(tmp_path) == []
