import gc
import os
import pathlib
import sys
import tempfile

import pytest

from model.errors import UserError
from tests.tiers import representatives
from tests.train.states import abstract_state_of, assert_same_bits, at_step, open_store, shardings_on
from train.checkpoints.plain_path import PlainPath, is_plain
from train.loop import train
from train.run.loading import load_run
from train.run.metrics import read_status


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/home/ann/runs/a b", True),
        ("/a/b.c_d+e=f@g,h~i-j/0", True),
        ("/a/日本", True),
        ("/a/s[1]", False),
        ("/a*/b", False),
        ("/a/b?", False),
        ("/a\\b", False),
        ("/a/gs:/b", False),
        ("/a\nb", False),
        ("/a/\udcff", False),
        ("/s3/runs", False),
        ("/gs", False),
        ("/runs/s3", True),
        ("//host/a", False),
        ("/", False),
        ("relative", False),
    ],
)
def test_which_paths_are_plain(path, plain):
    assert is_plain(pathlib.Path(path)) is plain


def test_letters_of_another_alphabet_are_plain_where_names_are_utf8(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    assert not is_plain(pathlib.Path("/a/café"))
    assert is_plain(pathlib.Path("/a/cafe"))


def test_a_plain_folder_is_its_own_way(tmp_path):
    plain = PlainPath(tmp_path)
    assert plain.path == tmp_path
    assert plain.is_intact()


def test_a_link_leads_to_a_folder_that_comes_later_and_goes_with_its_user(tmp_path):
    plain = PlainPath(tmp_path / "s[1]")
    link = plain.path
    assert is_plain(link)
    assert not link.exists()
    (tmp_path / "s[1]").mkdir()
    (link / "a").write_text("1")
    assert (tmp_path / "s[1]" / "a").read_text() == "1"
    assert plain.restore_paths(f"cannot open {link}/a") == f"cannot open {tmp_path}/s[1]/a"
    assert plain.is_intact()
    link.unlink()
    assert not plain.is_intact()
    del plain
    gc.collect()
    assert not link.parent.exists()
    assert (tmp_path / "s[1]" / "a").exists()


def test_a_folder_for_temporary_files_that_is_not_plain_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "t[1]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t[1]"))
    assert is_plain(PlainPath(tmp_path / "s[1]").path)


def test_no_place_for_a_link_is_said(tmp_path, monkeypatch):
    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(UserError, match=r"s\[1\]' has characters .*; set TMPDIR to a folder that can be written, or"):
        PlainPath(tmp_path / "s[1]")


# Patterns of glob, names that tensorstore and etils read as a bucket or slash, bytes that are not UTF-8, and a control.
NAMES = [
    "s[1]",
    "a*",
    "a?b",
    "a\\b",
    "gs:",
    "{a,b}",
    "~",
    "100%",
    "$HOME",
    "a\nb",
    "caf\udce9",
    "日本 語",
    "[",
    "'\"<&>",
]


@pytest.mark.parametrize("name", representatives(NAMES, "[", "caf\udce9"), ids=ascii)
def test_checkpoints_below_any_name_come_back(name, experiment, first, tmp_path):
    """They are in the right folder, beside another folder that the name would match as a pattern."""
    run, said = tmp_path / name / "run", []
    run.mkdir(parents=True)
    (tmp_path / "a1").mkdir()
    before = set(os.listdir(os.fsencode(tmp_path)))
    for step in (5, 10):
        with open_store(run, said) as store:
            store.save(experiment, at_step(first, step), step, loss=1.0)
    with open_store(run, said) as store:
        assert store.steps() == [5, 10]
        for step in (5, 10):
            restored = store.restore(step, experiment, shardings_on(experiment), abstract_state_of(experiment))
            assert_same_bits(restored, at_step(first, step))
    assert said == []
    assert set(os.listdir(os.fsencode(tmp_path))) == before


def test_a_link_that_was_cleared_away_is_made_again(experiment, first, tmp_path):
    run = tmp_path / "s[1]"
    with open_store(run) as store:
        store._plain_path.path.unlink()
        store.save(experiment, at_step(first, 5), 5, loss=None)
    with open_store(run) as store:
        assert_same_bits(
            store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment)), at_step(first, 5)
        )


def test_a_message_has_the_path_that_was_given(experiment, first, tmp_path):
    said = []
    with open_store(tmp_path / "s[1]", said) as store:
        store.save(experiment, at_step(first, 5), 5, loss=None)
    (tmp_path / "s[1]/checkpoints/5/files.json").unlink()
    (tmp_path / "s[1]/checkpoints/5/params/manifest.ocdbt").write_bytes(b"")
    with open_store(tmp_path / "s[1]", said) as store, pytest.raises(UserError):
        store.restore_latest(experiment, shardings_on(experiment), abstract_state_of(experiment))
    assert '/s[1]/checkpoints/5/params/manifest.ocdbt": Error decoding manifest: Encoded length' in said[0]
    assert "tensorstore_spec" not in said[0]
    assert "cairn-" not in said[0]


def test_a_run_and_its_data_may_have_any_name(tiny_experiment, tmp_path):
    """A run is trained, resumed and loaded, with TensorBoard."""
    run = tmp_path / "proj [v2]" / "a\\b" / "caf\udce9*"
    experiment = tiny_experiment(logging__tensorboard=True)
    said = []
    assert train(experiment, run, hard_stop=10, say=said.append).state == "stopped"
    assert train(experiment, run, say=said.append).state == "finished"
    assert read_status(run)["state"] == "finished"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["10", "20"]
    assert f"resuming {run} at step 10 of 20" in said
    loaded = load_run(run)
    assert loaded.step == 20
    assert loaded.dataset().split("train")[0].tokens(0).size > 0
