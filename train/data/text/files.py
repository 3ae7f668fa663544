"""The files that a path stands for: a file, a folder, a pattern, or the standard library."""

from __future__ import annotations

import dataclasses
import errno
import glob
import os
import pathlib
import stat
import sysconfig

from model.errors import UserError
from train.data.text import cairn_files
from train.data.text.units import cannot_read, printable
from train.data.text.walk import Walk, matches, may_be_empty
from train.files.paths import is_remote, user_path
from train.files.remote import convert_read_errors, local_copy

STDLIB = "stdlib"
# Folders of the standard library that hold its tests, or no sources of its own.
SKIPPED_STDLIB_FOLDERS = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
STDLIB_SUFFIXES = (".py", ".txt", ".rst", ".html")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a source as (path, name), in the order of the names, and a line about the files left out."""

    files: list[tuple[str, str]]
    left_out: str | None = None


def list_files(text: str) -> Listing:
    """The files that a path stands for, without empty files.

    A file or folder with exactly this name takes precedence over a pattern. Raises UserError where there is nothing to
    read.
    """
    if not text:
        raise UserError("the path of the text is empty; expected a file, a folder or a pattern")
    if is_remote(text):
        return _remote_files(text)
    path = os.path.expanduser(text)  # give a file named ~x as ./~x
    status = _stat(path)
    if status is None and text == STDLIB:
        return Listing(_stdlib_files())
    if status is None and glob.has_magic(text):
        return _matching_files(text, path)
    if status is None:
        raise UserError(
            f"no such text: {text!r} (looked in {_current_folder()}); expected a file, a folder, a glob,"
            f" a dataset folder made by launch.tokenize, 'hf:NAME' for a Hugging Face dataset, or {STDLIB!r}"
        )
    if stat.S_ISDIR(status.st_mode):
        _refuse_run_files(path, "the folder")
        walk = Walk(path)
        if not walk.files:
            raise UserError(f"{printable(text)} holds no file with text in it{_in_parentheses(walk.left_out())}")
        return Listing(_printable_names(walk.files), walk.left_out())
    if not stat.S_ISREG(status.st_mode):
        raise UserError(
            f"{printable(text)} is a pipe or a device, not a file: text is read more than once; write it into a file"
        )
    _refuse_run_files(path, "the file")
    if not status.st_size and may_be_empty(path):
        raise UserError(f"{printable(text)} is empty; expected a file with text in it")
    return Listing([(path, printable(os.path.basename(path)))])


def _remote_files(text: str) -> Listing:
    """The files that a path in a store stands for, copied to this machine; they have the names that they have there."""
    remote_path = user_path(text)
    first_wildcard = next((i for i, part in enumerate(remote_path.parts) if glob.has_magic(part)), None)
    with convert_read_errors(remote_path):
        if first_wildcard is None or remote_path.exists():
            return list_files(str(local_copy(remote_path)))
    root, pattern = type(remote_path)(*remote_path.parts[:first_wildcard]), list(remote_path.parts[first_wildcard:])
    if text.endswith("/"):
        pattern += ["**", "*"]
    copy = local_copy(root, lambda name: matches(name.split("/"), pattern))
    return list_files(os.path.join(glob.escape(str(copy)), *pattern))


def _stat(path: str) -> os.stat_result | None:
    """The `os.stat` of a path; None when nothing has that path."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise UserError(f"{printable(path)} is a link that leads nowhere; fix it") from None
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            if glob.has_magic(path):
                return None
            raise UserError(f"{printable(path[:60])}... is too long for a path: {len(path):,} characters") from None
        raise cannot_read(path, error) from None
    except ValueError as error:  # a zero byte, or characters that no file name can have
        raise UserError(f"{printable(path)} is not a path: {error}") from None


def _matching_files(text: str, path: str) -> Listing:
    """The files that match a pattern; names are relative to their common folder."""
    # A pattern with a slash at its end means all files in the folders that match.
    root, pattern = _split_pattern(f"{path}**/*" if path.endswith("/") else path)
    if _stat(root) is None:
        raise UserError(f"the pattern {text!r} matches no file in {_current_folder()}: there is no {printable(root)}")
    walk = Walk(root, pattern)
    if not walk.files:
        raise UserError(
            f"the pattern {text!r} matches no file with text in {_current_folder()}{_in_parentheses(walk.left_out())}"
        )
    common = os.path.commonpath([os.path.dirname(name) for _, name in walk.files])
    skipped = len(common) + 1 if common else 0
    return Listing(_printable_names([(path, name[skipped:]) for path, name in walk.files]), walk.left_out())


def _split_pattern(path: str) -> tuple[str, list[str]]:
    """The folder that a pattern begins with, and the remaining parts of the pattern.

    A part with wildcard characters counts as a folder if a folder with exactly that name exists.
    """
    parts = pathlib.Path(path).parts
    known = 0
    while known < len(parts) - 1:
        folder = os.path.join(*parts[: known + 1])
        if glob.has_magic(parts[known]) and not os.path.isdir(folder):
            break
        known += 1
    return os.path.join(*parts[:known]) if known else ".", list(parts[known:])


def _refuse_run_files(path: str, kind: str) -> None:
    """Raises UserError when a run wrote the file or folder at a path."""
    run = cairn_files.enclosing_run(os.path.realpath(path))
    if run is not None:
        raise UserError(
            f"{printable(path)}: {kind} was written by the run {printable(run)}, and a run's own files are not used as"
            " text; name another path, or copy it out of the run folder to use it anyway"
        )


def _printable_names(files: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(((path, printable(name)) for path, name in files), key=lambda pair: (pair[1], pair[0]))


def _current_folder() -> str:
    try:
        return printable(os.getcwd())
    except OSError:
        return "a folder that no longer exists"


def _in_parentheses(line: str | None) -> str:
    return f" ({line})" if line else ""


def _stdlib_files() -> list[tuple[str, str]]:
    """Python's own sources and documentation on this machine, without its tests and without installed packages."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [b for b in below if b not in SKIPPED_STDLIB_FOLDERS and not b.startswith("config-")]
        found += [pathlib.Path(folder, name) for name in names if name.endswith(STDLIB_SUFFIXES)]
    text_files = [(str(f), f.relative_to(root).as_posix()) for f in found if f.is_file() and _is_text(f)]
    if not text_files:
        raise UserError(f"this Python keeps no sources of its standard library in {root}; give data.path another text")
    return sorted(text_files, key=lambda pair: pair[1])


def _is_text(path: pathlib.Path) -> bool:
    # The user did not choose these files one by one, so an unreadable file is left out; elsewhere it is an error.
    try:
        return bool(path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, OSError):
        return False
