"""A run whose folder is in a store: trained in a folder of this machine and uploaded.

A store has no appending, no renaming and no locks. So everything is written into a spool, a folder of the cache, as for
any run, and its files are uploaded whole: every minute the changed files, and all remaining files at the end. Complete
checkpoints are uploaded; checkpoints that were removed from the spool are removed from the store afterwards.

A machine may be lost at any moment, so the order matters: first the files beside the checkpoints, which include the
lines up to every listed checkpoint; then the checkpoints, each with its files.json last. A checkpoint without
files.json did not arrive completely, and is not fetched. Before a checkpoint is uploaded again, after another of the
same step was damaged, the files.json of the earlier one is removed.

Two marker files lie beside them. RUN/.spool says whose spool wrote the run last: on the same machine a run continues
from its spool; on another machine, or if the spool is gone, the run is fetched first. RUN/.lock names the process that
trains the run. It is only advisory: two commands that start at the same time may both find no lock.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from model.errors import UserError
from train.files.files import move_replacing, read_json, replace_file, write_json
from train.files.remote import cache_folder, convert_read_errors, copy_into, list_files

UPLOAD_SECONDS = 60.0  # seconds between uploads
SPOOL_ID, LOCK, UPLOADED = ".spool", ".lock", ".uploaded.json"
CHECKPOINTS = "checkpoints/"
DIGESTS_FILE = "files.json"  # of a checkpoint's files, uploaded after them

Say = Callable[[str], None]


def spool_folder(run: epath.Path) -> pathlib.Path:
    """The folder of this machine into which a run in a store is written."""
    return cache_folder() / "runs" / hashlib.sha256(str(run).encode()).hexdigest()[:32] / run.name


@contextlib.contextmanager
def open_spool(run: epath.Path, say: Say) -> Iterator[pathlib.Path]:
    """Yields the spool of a run: brings it up to date with the store at the start, and the store with it at the end.

    Raises UserError when another process trains the run, when the store cannot be read, and when the last upload fails:
    then everything is in the spool, and the same command continues from there.
    """
    folder = spool_folder(run)
    say(f"{run}: written to {folder}, and uploaded every {UPLOAD_SECONDS:.0f} seconds and at the end")
    with _advisory_lock(run):
        _fetch(run, folder, say)
        upload = _Upload(run, folder, say)
        try:
            yield folder
        except BaseException:
            with contextlib.suppress(UserError):  # reported already
                upload.finish()
            raise
        upload.finish()


@contextlib.contextmanager
def _advisory_lock(run: epath.Path) -> Iterator[None]:
    """Holds RUN/.lock. Raises UserError that names the process when another process holds it."""
    lock_file, own = run / LOCK, f"{socket.gethostname()} {os.getpid()}"
    with convert_read_errors(run):
        owner = lock_file.read_text() if lock_file.exists() else ""
        if owner and owner != own and not _has_ended(owner):
            host, _, number = owner.partition(" ")
            raise UserError(
                f"{run} is in use by process {number} of {host}; wait for it or stop it, or give another --run. "
                f"If there is no such process any more, delete {lock_file}"
            )
        run.mkdir(parents=True, exist_ok=True)
        lock_file.write_text(own)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # a remaining lock names a process that has ended
            if lock_file.read_text() == own:  # a user may have deleted it and started another process
                lock_file.unlink()


def _has_ended(owner: str) -> bool:
    """Whether a process of this machine has ended; False for other machines, whose processes are unknown."""
    host, _, number = owner.partition(" ")
    if host != socket.gethostname() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _fetch(run: epath.Path, folder: pathlib.Path, say: Say) -> None:
    """Fetches the run into the spool, unless this spool wrote the run last; an outdated spool is moved away."""
    home = folder.parent
    with convert_read_errors(run):
        stored_id = (run / SPOOL_ID).read_text() if (run / SPOOL_ID).exists() else None
        if stored_id is not None and (folder / SPOOL_ID).is_file() and (folder / SPOOL_ID).read_text() == stored_id:
            return
        files = [found for found in list_files(run) if found.name not in (SPOOL_ID, LOCK)]
    # Without .spool no spool wrote the run: it was copied there, and checkpoints of old runs have no record.
    incomplete = _incomplete_checkpoint_files({found.name for found in files}) if stored_id is not None else set()
    files = [found for found in files if found.name not in incomplete]
    if folder.exists():
        old = home.with_name(home.name + ".old")
        move_replacing(home, old)
        say(f"{run} was written by another machine since, or deleted: the earlier files are in {old}")
    if files:
        say(f"{run}: fetching {sum(found.size for found in files) / 2**20:,.0f} MiB")
    copy_into(run, files, home)
    replace_file(folder / SPOOL_ID, uuid.uuid4().hex.encode())
    # The next upload removes the files that were left out, unless they are written again.
    write_json(folder / UPLOADED, _sizes_and_times(folder) | dict.fromkeys(sorted(incomplete)))
    with convert_read_errors(run):
        (run / SPOOL_ID).write_bytes((folder / SPOOL_ID).read_bytes())


def _incomplete_checkpoint_files(names: set[str]) -> set[str]:
    """The files of checkpoints that did not arrive completely in the store: their record is missing."""
    steps = {name: "/".join(name.split("/")[:2]) for name in names if name.startswith(CHECKPOINTS)}
    return {name for name, step in steps.items() if f"{step}/{DIGESTS_FILE}" not in names}


def _sizes_and_times(folder: pathlib.Path) -> dict[str, list[int]]:
    """Sizes and times of the files of a spool that are uploaded, by their path in the spool.

    Checkpoints are listed first: the lines up to a checkpoint were written before it, so the later listing has them.
    """
    found = {}
    for where, below, names in itertools.chain(os.walk(folder / CHECKPOINTS), os.walk(folder)):
        here = pathlib.Path(where)
        if here == folder / CHECKPOINTS:
            below[:] = [name for name in below if name.isdigit()]  # others are not complete
        elif here == folder:
            below[:] = [name for name in below if name != CHECKPOINTS.rstrip("/")]
        for name in names:
            path = here / name
            if name in (LOCK, SPOOL_ID, UPLOADED) or name.endswith(".part"):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                about = path.stat()
                found[path.relative_to(folder).as_posix()] = [about.st_size, about.st_mtime_ns]
    return found


def _upload_order(name: str) -> tuple[bool, bool, str]:
    """The place of a file in the order of an upload."""
    return name.startswith(CHECKPOINTS), name.endswith(f"/{DIGESTS_FILE}"), name


class _Upload:
    """A thread that uploads the files of a spool that have changed."""

    def __init__(self, run: epath.Path, folder: pathlib.Path, say: Say) -> None:
        self._run, self._folder, self._say = run, folder, say
        self._uploaded: dict[str, Any] = read_json(folder / UPLOADED) if (folder / UPLOADED).is_file() else {}
        self._last_warning: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended.wait(UPLOAD_SECONDS):
            with contextlib.suppress(UserError):
                self._upload_changes()

    def finish(self) -> None:
        """Uploads the rest. Raises UserError when that fails."""
        self._ended.set()
        self._thread.join()
        for attempt in range(3):
            try:
                return self._upload_changes()
            except UserError:
                if attempt == 2:
                    raise
                time.sleep(attempt + 1)

    def _upload_changes(self) -> None:
        """Uploads changed files, then removes deleted files from the store. On failure prints and raises UserError."""
        try:
            now = _sizes_and_times(self._folder)
            changed = [name for name, version in now.items() if self._uploaded.get(name) != version]
            records = self._remove_old_records(changed) & now.keys()
            for name in sorted({*changed, *records}, key=_upload_order):
                self._upload_file(name)
                self._uploaded[name] = now[name]
            for name in sorted(self._uploaded.keys() - now.keys(), key=_upload_order, reverse=True):  # records first
                (self._run / name).unlink(missing_ok=True)
                del self._uploaded[name]
            write_json(self._folder / UPLOADED, self._uploaded)
        except Exception as error:  # every store has errors of its own
            why = str(error).strip().splitlines() or [type(error).__name__]
            line = f"{self._run} could not be uploaded: {why[0][:300]}"
            if line != self._last_warning:
                self._last_warning = line
                self._say(f"WARNING: {line}; it is tried again")
            raise UserError(
                f"{line}; everything is in {self._folder}: fix that and give the same command again, which continues"
            ) from error

    def _remove_old_records(self, changed: list[str]) -> set[str]:
        """Removes from the store the records of the checkpoints that have changed files; returns these records.

        The store has one if another checkpoint of the same step was uploaded and then found to be damaged. That record
        describes files that are about to be replaced, and would make a mixture of old and new files look complete.
        """
        steps = {"/".join(name.split("/")[:2]) for name in changed if name.startswith(CHECKPOINTS)}
        records = {f"{step}/{DIGESTS_FILE}" for step in steps}
        for record in sorted(records):
            # An upload that ended early is not listed, so the store is asked too.
            if self._uploaded.pop(record, None) is not None or (self._run / record).exists():
                (self._run / record).unlink(missing_ok=True)
        return records

    def _upload_file(self, name: str) -> None:
        target = self._run / name
        try:
            source = open(self._folder / name, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return  # removed since; the next pass sees that
        with source:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
