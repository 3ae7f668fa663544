"""Lists all files below a folder, each once; follows links, and reports the files that it leaves out.

It leaves out files that Cairn wrote, hidden files, further paths to the same file, and pipes and devices. It does not
report files that a pattern does not match.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator

from model.errors import UserError
from train.data.text import own
from train.data.text.compression import open_bytes
from train.data.text.kinds import HEAD, kind_of
from train.data.text.units import cannot_read, readable
from train.terminal.formatting import format_count

Key = tuple[int, int]  # device and inode, which identify a file or folder under all its names
NO_TEXT = ("__pycache__",)


class Walk:
    """The files below `root` whose path from there matches `pattern`, a list of path parts; None matches every path.

    Raises UserError for a folder that cannot be read, and for a link that leads nowhere.
    """

    def __init__(self, root: str, pattern: list[str] | None = None) -> None:
        self.files: list[tuple[str, str]] = []  # path, and path from the root
        self._root = root
        self._pattern = pattern
        self._wants_hidden = pattern is not None and any(part.startswith(".") for part in pattern)
        self._streams = set(_written_now())
        self._folders: set[Key] = set()
        self._keys: set[Key] = set()
        self._linked: set[Key] = set()
        self._links: list[tuple[str, str]] = []
        self._own: list[str] = []
        self._hidden: list[str] = []
        self._again: list[str] = []
        self._special: list[str] = []
        self._not_entered: list[str] = []
        self._tree(root, "")
        # A file below the root takes precedence over links to it.
        while self._links:
            links, self._links = sorted(self._links), []
            for path, name in links:
                self._follow(path, name)

    def left_out(self) -> str | None:
        """The files left out and the reasons, in one line; None when there are none."""
        reasons = (
            (self._own, "files that Cairn wrote"),
            (self._hidden, "hidden files and caches"),
            (self._again, "links to files that are there already"),
            (self._special, "pipes and devices"),
            (self._not_entered, "folders, entered only by a pattern that ends in /**"),
        )
        parts = [f"{why}: {_first(sorted(names))}" for names, why in reasons if names]
        return f"{readable(self._root)}: left out {'; '.join(parts)}" if parts else None

    def _tree(self, path: str, prefix: str) -> None:
        waiting = [(path, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
                key = _key(os.stat(folder))
            except OSError as error:
                raise cannot_read(folder, error) from None
            if key in self._folders:
                self._again.append(readable(prefix.rstrip("/")))
                continue
            self._folders.add(key)
            mark = own.folder_mark(folder, {entry.name for entry in entries})
            if mark is not None and prefix:
                self._leave_out(folder, prefix.rstrip("/"), mark)
                continue
            if mark == own.DATASET:
                raise UserError(
                    f"{readable(folder)} is a dataset folder, which holds tokens. Use a finished one as data.path;"
                    " finish an unfinished one with the command that began it"
                )
            if mark == own.RUN:
                entries = self._without_run(entries)
            waiting += self._entries(entries, prefix)

    def _entries(self, entries: list[os.DirEntry[str]], prefix: str) -> Iterator[tuple[str, str]]:
        """Notes the files and links among the entries of a folder; yields the folders to enter."""
        for entry in entries:
            name = prefix + entry.name
            cache = entry.name in NO_TEXT and entry.is_dir()
            if (entry.name.startswith(".") or cache) and not self._wants_hidden:
                if self._pattern is None and entry.name != ".lock":  # Cairn's lock
                    self._hidden.append(readable(name))
            elif entry.is_symlink():
                self._links.append((entry.path, name))
            elif entry.is_dir():
                if self._is_entered(name):
                    yield entry.path, name + "/"
            elif self._wanted(name):
                self._file(entry.path, name)

    def _file(self, path: str, name: str) -> None:
        """Notes a file, pipe or device."""
        try:
            about = os.stat(path)
        except OSError as error:
            raise cannot_read(path, error) from None
        if not stat.S_ISREG(about.st_mode):
            self._special.append(readable(name))
        elif _key(about) in self._streams:
            self._own.append(f"{readable(name)} (this command prints into it)")
        elif _key(about) in self._linked:
            self._again.append(readable(name))
        elif about.st_size or not may_be_empty(name):
            mark = _mark_of_file(path, name)
            if mark is None:
                self.files.append((path, name))
                self._keys.add(_key(about))
            else:
                self._own.append(f"{readable(name)} ({mark})")

    def _follow(self, path: str, name: str) -> None:
        """Notes the file that a link leads to, or walks the folder."""
        try:
            real = os.path.realpath(path, strict=True)
            about = os.stat(real)
        except OSError as error:
            if self._wanted(name):
                missing = "leads to itself" if error.errno == errno.ELOOP else f"leads nowhere: {error.strerror}"
                raise UserError(f"{readable(path)} is a link that {missing}; mend it, or delete it") from None
            return
        folder = stat.S_ISDIR(about.st_mode)
        if folder and not self._is_entered(name):
            return
        if not folder and not self._wanted(name):
            return
        run = own.run_around(real)
        goes_round = folder and os.path.commonpath([real, os.path.realpath(os.path.dirname(path))]) == real
        if run is not None:
            self._own.append(f"{readable(name)} (of the run folder {readable(run)})")
        elif _key(about) in (self._folders if folder else self._keys) or goes_round:
            self._again.append(readable(name))
        elif folder:
            self._tree(path, name + "/")
        else:
            self._file(path, name)
            self._linked.add(_key(about))

    def _without_run(self, entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """The user's own entries in a run folder, where the text and the run share one folder."""
        kept = []
        for entry in entries:
            folder = entry.is_dir()
            if entry.name in (own.RUN_FOLDERS if folder else own.RUN_FILES):
                if folder:
                    self._leave_out(entry.path, entry.name, "of the run")
                elif self._wanted(entry.name):
                    self._own.append(f"{readable(entry.name)} (of the run)")
            else:
                kept.append(entry)
        return kept

    def _leave_out(self, folder: str, name: str, mark: str) -> None:
        """Notes a folder that Cairn wrote, and the number and size of the wanted files in it."""
        files = size = 0
        for below, _, names in os.walk(folder):
            for file in names:
                path = os.path.join(below, file)
                if self._wanted(os.path.join(name, os.path.relpath(path, folder))):
                    files += 1
                    size += os.lstat(path).st_size if os.path.lexists(path) else 0
        if files:
            self._own.append(
                f"{readable(name)} ({mark}, {files:,} {'file' if files == 1 else 'files'}, {format_count(size)}B)"
            )

    def _is_entered(self, name: str) -> bool:
        """Whether files below a folder may match the pattern; notes a folder that matches only itself.

        A folder that is not entered must not hide a link to it, which has another name.
        """
        if self._pattern is None or may_match_below(name.split("/"), self._pattern):
            return True
        if self._wanted(name):
            self._not_entered.append(readable(name))
        return False

    def _wanted(self, name: str) -> bool:
        return self._pattern is None or matches(name.split("/"), self._pattern)


def matches(names: list[str], pattern: list[str]) -> bool:
    """Whether a path matches a pattern, part by part: `**` matches any number of parts, `*` no hidden name."""
    return len(pattern) in _indices(names, pattern)


def may_match_below(names: list[str], pattern: list[str]) -> bool:
    """Whether a path inside a folder, given the folder's path, may match a pattern."""
    return any(index < len(pattern) for index in _indices(names, pattern))


def _indices(names: list[str], pattern: list[str]) -> set[int]:
    """The indices in a pattern where its next part may follow a path; the pattern's length where the path matches."""

    def reached(indices: set[int]) -> set[int]:
        for index in sorted(indices):
            while index < len(pattern) and pattern[index] == "**":
                index += 1
                indices.add(index)
        return indices

    indices = reached({0})
    for name in names:
        after = set()
        for index in indices:
            if index == len(pattern):
                continue
            part = pattern[index]
            if name.startswith(".") and not part.startswith("."):
                continue
            if part == "**":
                after.add(index)
            elif fnmatch.fnmatchcase(name, part):
                after.add(index + 1)
        indices = reached(after)
    return indices


def may_be_empty(name: str) -> bool:
    """Whether an empty file of this name is a valid file without text, rather than a damaged file."""
    kind = kind_of(name)
    return kind.compression is None and kind.format != "parquet"


def _mark_of_file(path: str, name: str) -> str | None:
    if not name.lower().endswith((".html", ".htm", ".png")):
        return None
    with open_bytes(path) as file:
        return own.file_mark(name, file.read(HEAD))


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _key(about: os.stat_result) -> Key:
    return about.st_dev, about.st_ino


def _written_now() -> Iterator[Key]:
    """Yields the files into which this process prints."""
    for descriptor in (1, 2):
        try:
            about = os.fstat(descriptor)
        except OSError:
            continue
        if stat.S_ISREG(about.st_mode):
            yield _key(about)
