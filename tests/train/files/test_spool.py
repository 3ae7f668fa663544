"""Training a run whose folder is in a store: what is uploaded, resuming here and elsewhere, who may write."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from model.errors import UserError
from tests import stores
from tests.tiers import SWEEP
from train.files import spool
from train.files.paths import user_path
from train.files.remote import cache_folder
from train.files.spool import open_spool, spool_folder
from train.loop import train
from train.run.loading import load_run

RUN = "gs://bucket/run"


@pytest.fixture
def store(monkeypatch, tmp_path):
    yield stores.install(monkeypatch, tmp_path)
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture
def there(store):
    """The folder that stands for the run in the store."""
    return store.root / "gs" / "bucket" / "run"


def contents(folder):
    hidden = (".spool", ".lock", ".uploaded.json")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in hidden
    }


@pytest.mark.sweep
def test_a_run_in_a_store_is_the_run_that_it_would_be_here(store, there, tiny_experiment, tmp_path):
    """Trained in two sessions, the second on a machine without a spool; the files equal those of a local run."""
    experiment = tiny_experiment()
    train(experiment, tmp_path / "plain", say=lambda _: None)
    said = []
    assert train(experiment, user_path(RUN), hard_stop=10, say=said.append).step == 10
    assert said[0] == f"{RUN}: written to {spool_folder(user_path(RUN))}, and uploaded every 60 seconds and at the end"
    assert contents(there) == contents(spool_folder(user_path(RUN)))
    assert not (there / ".lock").exists()
    shutil.rmtree(cache_folder())
    outcome = train(experiment, user_path(RUN), say=said.append)
    assert (outcome.state, outcome.step) == ("finished", 20)
    assert any("fetching" in line for line in said)
    assert contents(there) == contents(spool_folder(user_path(RUN)))
    for name in ("metrics.jsonl", "samples.txt", "config.json"):
        assert (there / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    here = load_run(tmp_path / "plain")
    jax.tree.map(np.testing.assert_array_equal, load_run(RUN).params, here.params)
    shutil.rmtree(cache_folder())
    assert load_run(RUN).dataset().folder == user_path(f"{RUN}/data")


@SWEEP
def test_the_command_trains_into_a_store(store, there, command, reports, tiny_experiment, write_config, tmp_path):
    config = write_config(tiny_experiment(), tmp_path / "config.py")
    status, said = command("launch.train", f"--config={config}", f"--run={RUN}", "--hard_stop=2")
    assert status == 0, said
    assert json.loads((there / "status.json").read_text())["step"] == 2
    assert (there / "report.html").is_file()


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_only_what_has_changed_goes_up_and_what_is_gone_goes(store, there, monkeypatch):
    sent = []
    plain = spool._Upload._upload_file
    monkeypatch.setattr(spool._Upload, "_upload_file", lambda self, name: sent.append(name) or plain(self, name))
    with open_spool(user_path(RUN), print) as folder:
        write(folder, metrics="1", checkpoints__1__files_json="r", checkpoints__1__params__a="p")
        (folder / "checkpoints" / "1" / "files_json").rename(folder / "checkpoints" / "1" / "files.json")
    assert sent == ["metrics", "checkpoints/1/params/a", "checkpoints/1/files.json"]
    del sent[:]
    with open_spool(user_path(RUN), print) as again:
        assert again == folder
        write(folder, metrics="12", checkpoints__2__params__a="q")
        shutil.rmtree(folder / "checkpoints" / "1")
        write(folder, **{"checkpoints__3.orbax-checkpoint-tmp__params": "half"})
        (folder / ".1234.part").touch()
    assert sent == ["metrics", "checkpoints/2/params/a"]
    assert contents(there) == {"metrics": b"12", "checkpoints/2/params/a": b"q"}


class LostError(BaseException):
    """The machine is lost."""


def until(monkeypatch, allowed):
    """Allows so many changes of the store, uploads and removals; at the next change the machine is lost."""
    done = []

    def counted(plain):
        def change(self, *args, **named):
            if str(args[0]).endswith("/.lock"):
                return plain(self, *args, **named)
            if len(done) == allowed:
                raise LostError
            done.append(args)
            return plain(self, *args, **named)

        return change

    monkeypatch.setattr(spool._Upload, "_upload_file", counted(spool._Upload._upload_file))
    monkeypatch.setattr(stores.Store, "remove", counted(stores.Store.remove))
    return done


def save(folder, step, content=""):
    """Lines up to a step, then its checkpoint, as the loop writes them."""
    lines = "".join(f"{n}\n" for n in range(1, step + 1))
    write(folder, **{"metrics.jsonl": lines, "samples.txt": lines})
    for name in ("params__a", "params__d__b", "files.json"):
        write(folder, **{f"checkpoints__{step}__{name}": f"{name} {step}{content}"})


def test_wherever_an_upload_ends_what_is_fetched_is_the_run_of_a_whole_checkpoint(store, there, monkeypatch):
    """Step 10 is uploaded and step 5 removed; the machine is lost after each number of changes."""
    with open_spool(user_path(RUN), print) as folder:
        save(folder, 5)
    shutil.copytree(cache_folder(), before := store.root.parent / "before")
    shutil.copytree(there, stored := store.root.parent / "stored")
    steps_seen = []
    for allowed in range(12):
        for target, source in ((cache_folder(), before), (there, stored)):
            shutil.rmtree(target)
            shutil.copytree(source, target)
        with monkeypatch.context() as patch:
            done = until(patch, allowed)
            try:
                with open_spool(user_path(RUN), print) as folder:
                    save(folder, 10)
                    shutil.rmtree(folder / "checkpoints" / "5")
                ended = True
            except LostError:
                ended = False
        (there / ".lock").unlink(missing_ok=True)
        shutil.rmtree(cache_folder())
        with open_spool(user_path(RUN), print) as folder:
            steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
            lines = (folder / "metrics.jsonl").read_text().split()
        for step in steps:
            whole = {f"checkpoints/{step}/{name}" for name in ("params/a", "params/d/b", "files.json")}
            assert whole <= contents(folder).keys(), allowed
            assert lines[:step] == [str(n) for n in range(1, step + 1)], allowed
        assert contents(there) == contents(folder)  # also what was left out
        steps_seen.append(steps)
        if ended:
            break
    assert len(done) == 8
    assert steps_seen == [[5]] * 5 + [[5, 10]] + [[10]] * 3


@pytest.mark.parametrize("first_upload", ["whole", "lost before its end was noted"])
@pytest.mark.parametrize("changed", [("params/a", "params/d/b", "files.json"), ("params/a",)])
def test_a_checkpoint_that_is_uploaded_again_never_has_the_record_of_the_earlier_one(
    first_upload, changed, store, there, monkeypatch
):
    """The machine is lost after each number of changes: a checkpoint with a record has all files of one version."""
    with open_spool(user_path(RUN), print) as folder:
        noted = (folder / ".uploaded.json").read_bytes() if (folder / ".uploaded.json").exists() else b"{}"
        save(folder, 5)
    if first_upload != "whole":
        (folder / ".uploaded.json").write_bytes(noted)
    shutil.copytree(cache_folder(), before := store.root.parent / "before")
    shutil.copytree(there, stored := store.root.parent / "stored")
    names, seen = ("params/a", "params/d/b", "files.json"), set()
    for allowed in range(12):
        for target, source in ((cache_folder(), before), (there, stored)):
            shutil.rmtree(target)
            shutil.copytree(source, target)
        with monkeypatch.context() as patch:
            until(patch, allowed)
            try:
                with open_spool(user_path(RUN), print) as folder:
                    for name in changed:
                        (folder / "checkpoints" / "5" / name).write_text(f"again {name}")
                ended = True
            except LostError:
                ended = False
        (there / ".lock").unlink(missing_ok=True)
        found = {name: path.read_text() for name in names if (path := there / "checkpoints" / "5" / name).exists()}
        seen.add(complete := "files.json" in found)
        if complete:
            assert {found[name].startswith("again") for name in changed} == {ended}, (allowed, found)
        with open_spool(user_path(RUN), print) as folder:
            pass
        assert contents(there) == contents(folder), allowed
        if ended:
            break
    assert ended
    assert complete
    assert seen == {True, False}


def test_lines_that_reach_the_disk_during_the_listing_go_up_before_their_checkpoint(store, there, monkeypatch):
    """The loop commits step 10 just before `checkpoints` is listed: then the lines are listed afterwards."""
    with open_spool(user_path(RUN), print) as folder:
        save(folder, 5)
    sent, plain, walk = [], spool._Upload._upload_file, os.walk

    def saving(top, *args, **named):
        for where, below, names in walk(top, *args, **named):
            yield where, below, names
            if not (folder / "checkpoints" / "10").exists():
                save(folder, 10)

    monkeypatch.setattr(spool._Upload, "_upload_file", lambda self, name: sent.append(name) or plain(self, name))
    with open_spool(user_path(RUN), print):
        monkeypatch.setattr(os, "walk", saving)
    steps = [name for name in sent if name.startswith("checkpoints/10/")]
    assert not steps or sent.index("metrics.jsonl") < sent.index(steps[0])
    assert "metrics.jsonl" in sent


def test_an_old_run_that_was_copied_there_keeps_its_checkpoints_without_records(store, there):
    write(there, metrics="1", checkpoints__5__params__a="p")
    with open_spool(user_path(RUN), print) as folder:
        assert (folder / "checkpoints" / "5" / "params" / "a").read_text() == "p"


def test_a_run_goes_on_exactly_after_a_machine_was_lost(store, there, tiny_experiment, tmp_path, monkeypatch):
    experiment = tiny_experiment(checkpoints__every=4, samples__prompts=())
    train(experiment, tmp_path / "plain", say=lambda line: None)
    plain = spool._Upload._upload_file
    for stop, lost, resumed in ((4, "never", 0), (8, "checkpoints/8/files.json", 4), (12, "metrics.jsonl", 4)):
        said = []
        with monkeypatch.context() as patch:

            def send(self, name, lost=lost):
                if name == lost:
                    raise LostError
                plain(self, name)

            patch.setattr(spool._Upload, "_upload_file", send)
            with contextlib.nullcontext() if lost == "never" else pytest.raises(LostError):
                train(experiment, user_path(RUN), hard_stop=stop, say=said.append)
        assert any(f"at step {resumed} of" in line for line in said) or not resumed
        shutil.rmtree(cache_folder())
    train(experiment, user_path(RUN), say=lambda line: None)
    assert (there / "metrics.jsonl").read_bytes() == (tmp_path / "plain" / "metrics.jsonl").read_bytes()
    here = load_run(tmp_path / "plain")
    jax.tree.map(np.testing.assert_array_equal, load_run(RUN).params, here.params)


def test_files_go_up_while_the_run_goes_on(store, there, monkeypatch):
    monkeypatch.setattr(spool, "UPLOAD_SECONDS", 0.02)
    import time

    with open_spool(user_path(RUN), print) as folder:
        write(folder, metrics="1")
        for _ in range(500):
            if (there / "metrics").exists():
                break
            time.sleep(0.02)
        assert (there / "metrics").read_text() == "1"


def test_a_spool_that_did_not_write_last_is_set_aside(store, there):
    with open_spool(user_path(RUN), print) as folder:
        write(folder, metrics="1")
    other = folder.parent.with_name("other")
    shutil.copytree(folder.parent, other)
    (there / ".spool").write_text("another machine")
    (there / "metrics").write_text("1 and more")
    said = []
    with open_spool(user_path(RUN), said.append) as folder:
        assert (folder / "metrics").read_text() == "1 and more"
    assert any("was written by another machine since, or deleted: the earlier files are in" in line for line in said)
    shutil.rmtree(there)  # to begin anew
    with open_spool(user_path(RUN), said.append) as folder:
        assert not (folder / "metrics").exists()


def test_one_process_trains_a_run(store, there):
    there.mkdir(parents=True)
    (there / ".lock").write_text("elsewhere 17")
    with pytest.raises(UserError, match=f"{RUN} is in use by process 17 of elsewhere; .* delete {RUN}/.lock"):
        with open_spool(user_path(RUN), print):
            pass
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for owner in (f"{socket.gethostname()} {done.pid}", f"{socket.gethostname()} {os.getpid()}"):
        (there / ".lock").write_text(owner)
        with open_spool(user_path(RUN), print):
            assert (there / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}"
        assert not (there / ".lock").exists()
    (there / ".lock").write_text(f"{socket.gethostname()} {os.getppid()}")
    with pytest.raises(UserError, match="is in use by process"):
        with open_spool(user_path(RUN), print):
            pass


def test_the_lock_of_another_process_stays(store, there):
    """A user deleted our lock by hand, as the message advises, and started elsewhere; or only deleted it."""
    with open_spool(user_path(RUN), print):
        (there / ".lock").write_text("elsewhere 17")
    assert (there / ".lock").read_text() == "elsewhere 17"
    (there / ".lock").unlink()
    with open_spool(user_path(RUN), print):
        (there / ".lock").unlink()
    assert not (there / ".lock").exists()


def test_an_upload_that_fails_loses_nothing(store, there, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = []
    plain = store.open

    def broken(path, mode):
        if mode == "wb" and "metrics" in str(path):
            raise RuntimeError("503: try later\nplease")
        return plain(path, mode)

    monkeypatch.setattr(store, "open", broken)
    with pytest.raises(UserError, match="could not be uploaded: 503: try later; everything is in .*: fix that"):
        with open_spool(user_path(RUN), said.append) as folder:
            write(folder, metrics="1", other="2")
    assert sum("WARNING" in line for line in said) == 1
    with pytest.raises(KeyError, match="mine"), open_spool(user_path(RUN), said.append):
        raise KeyError("mine")
    monkeypatch.setattr(store, "open", plain)
    with open_spool(user_path(RUN), said.append) as folder:
        assert (folder / "metrics").read_text() == "1"
    assert contents(there) == {"metrics": b"1", "other": b"2"}
