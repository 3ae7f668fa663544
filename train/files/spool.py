"""A run whose folder is in a store: trained in a folder of this machine and uploaded.

A store has no appending, no renaming and no locks. So everything is written into a spool, a folder of the cache, as for
any run, and its files are uploaded whole: every minute the changed files, and all remaining files at the end. Complete
checkpoints are uploaded; checkpoints that were removed from the spool are removed from the store afterwards.

A machine may be lost at any moment, so the order matters: first the files beside the checkpoints, which include the
lines up to every listed checkpoint; then the checkpoints, each with its files.json last. A checkpoint without
files.json did not arrive completely, and is not fetched.

Two marks lie beside them. RUN/.spool says whose spool wrote the run last: on the same machine a run continues from its
spool; on another machine, or if the spool is gone, the run is fetched first. RUN/.lock names the process that trains
the run. It is only advisory: two commands that start at the same time may both find no lock.
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
from train.files.files import read_json, replace_file, set_aside, write_json
from train.files.remote import cache_folder, copy_into, files_of, read_errors

EVERY = 60.0  # seconds between uploads
MARK, LOCK, SENT = ".spool", ".lock", ".uploaded.json"
CHECKPOINTS = "checkpoints/"
RECORD = "files.json"  # of a checkpoint's files, uploaded after them

Say = Callable[[str], None]


def spool_folder(run: epath.Path) -> pathlib.Path:
    """The folder of this machine into which a run in a store is written."""
    return cache_folder() / "runs" / hashlib.sha256(str(run).encode()).hexdigest()[:32] / run.name


@contextlib.contextmanager
def spooled(run: epath.Path, say: Say) -> Iterator[pathlib.Path]:
    """Yields the spool of a run: brings it up to date with the store at the start, and the store with it at the end.

    Raises UserError when another process trains the run, when the store cannot be read, and when the last upload fails:
    then everything is in the spool, and the same command continues from there.
    """
    folder = spool_folder(run)
    say(f"{run}: written to {folder}, and uploaded every {EVERY:.0f} seconds and at the end")
    with _held(run):
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
def _held(run: epath.Path) -> Iterator[None]:
    """Holds RUN/.lock. Raises UserError that names the process when another process holds it."""
    mark, own = run / LOCK, f"{socket.gethostname()} {os.getpid()}"
    with read_errors(run):
        owner = mark.read_text() if mark.exists() else ""
        if owner and owner != own and not _is_dead(owner):
            host, _, number = owner.partition(" ")
            raise UserError(
                f"{run} is in use by process {number} of {host}; wait for it or stop it, or give another --run. "
                f"If there is no such process any more, delete {mark}"
            )
        run.mkdir(parents=True, exist_ok=True)
        mark.write_text(own)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # a remaining mark names a process that has ended
            if mark.read_text() == own:  # a user may have deleted it and started another process
                mark.unlink()


def _is_dead(owner: str) -> bool:
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
    """Fetches the run into the spool, unless this spool wrote the run last; an outdated spool is set aside."""
    home = folder.parent
    with read_errors(run):
        theirs = (run / MARK).read_text() if (run / MARK).exists() else None
        if theirs is not None and (folder / MARK).is_file() and (folder / MARK).read_text() == theirs:
            return
        files = [found for found in files_of(run) if found.name not in (MARK, LOCK)]
    # Without the mark no spool wrote the run: it was copied there, and checkpoints of old runs have no record.
    partial = _partial({found.name for found in files}) if theirs is not None else set()
    files = [found for found in files if found.name not in partial]
    if folder.exists():
        old = home.with_name(home.name + ".old")
        set_aside(home, old)
        say(f"{run} was written by another machine since, or deleted: the earlier files are in {old}")
    if files:
        say(f"{run}: fetching {sum(found.size for found in files) / 2**20:,.0f} MiB")
    copy_into(run, files, home)
    replace_file(folder / MARK, uuid.uuid4().hex.encode())
    # The next upload removes the files that were left out, unless they are written again.
    write_json(folder / SENT, _stamps(folder) | dict.fromkeys(sorted(partial)))
    with read_errors(run):
        (run / MARK).write_bytes((folder / MARK).read_bytes())


def _partial(names: set[str]) -> set[str]:
    """The files of checkpoints that did not arrive completely in the store: their record is missing."""
    steps = {name: "/".join(name.split("/")[:2]) for name in names if name.startswith(CHECKPOINTS)}
    return {name for name, step in steps.items() if f"{step}/{RECORD}" not in names}


def _stamps(folder: pathlib.Path) -> dict[str, list[int]]:
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
            if name in (LOCK, MARK, SENT) or name.endswith(".part"):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                about = path.stat()
                found[path.relative_to(folder).as_posix()] = [about.st_size, about.st_mtime_ns]
    return found


def _turn(name: str) -> tuple[bool, bool, str]:
    """The place of a file in the order of an upload."""
    return name.startswith(CHECKPOINTS), name.endswith(f"/{RECORD}"), name


class _Upload:
    """A thread that uploads the files of a spool that have changed."""

    def __init__(self, run: epath.Path, folder: pathlib.Path, say: Say) -> None:
        self._run, self._folder, self._say = run, folder, say
        self._sent: dict[str, Any] = read_json(folder / SENT) if (folder / SENT).is_file() else {}
        self._said: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended.wait(EVERY):
            with contextlib.suppress(UserError):
                self._pass()

    def finish(self) -> None:
        """Uploads the rest. Raises UserError when that fails."""
        self._ended.set()
        self._thread.join()
        for attempt in range(3):
            try:
                return self._pass()
            except UserError:
                if attempt == 2:
                    raise
                time.sleep(attempt + 1)

    def _pass(self) -> None:
        """Uploads changed files, then removes deleted files from the store. On failure prints and raises UserError."""
        try:
            now = _stamps(self._folder)
            changed = [name for name, stamp in now.items() if self._sent.get(name) != stamp]
            for name in sorted(changed, key=_turn):
                self._send(name)
                self._sent[name] = now[name]
            for name in sorted(self._sent.keys() - now.keys(), key=_turn, reverse=True):  # records first
                (self._run / name).unlink(missing_ok=True)
                del self._sent[name]
            write_json(self._folder / SENT, self._sent)
        except Exception as error:  # every store has errors of its own
            why = str(error).strip().splitlines() or [type(error).__name__]
            line = f"{self._run} could not be uploaded: {why[0][:300]}"
            if line != self._said:
                self._said = line
                self._say(f"WARNING: {line}; it is tried again")
            raise UserError(
                f"{line}; everything is in {self._folder}: mend that and give the same command again, which goes on"
            ) from error

    def _send(self, name: str) -> None:
        target = self._run / name
        try:
            source = open(self._folder / name, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return  # removed since; the next pass sees that
        with source:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
