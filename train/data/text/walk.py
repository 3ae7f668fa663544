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
from train.data.text import cairn_files
from train.data.text.compression import open_bytes
from train.data.text.file_types import HEAD, file_type_of
from train.data.text.units import cannot_read, printable
from train.terminal.formatting import format_count

FileId = tuple[int, int]  # device and inode, which identify a file or folder under all its names
SKIPPED_FOLDERS = ("__pycache__",)


class Walk:
    """The files below `root` whose path from there matches `pattern`, a list of path parts; None matches every path.

    Raises UserError for a folder that cannot be read, and for a link that leads nowhere.
    """

    def __init__(self, root: str, pattern: list[str] | None = None) -> None:
        self.files: list[tuple[str, str]] = []  # path, and path from the root
        self._root = root
        self._pattern = pattern
        self._wants_hidden = pattern is not None and any(part.startswith(".") for part in pattern)
        self._output_files = set(_output_file_ids())
        self._folder_ids: set[FileId] = set()
        self._file_ids: set[FileId] = set()
        self._linked_ids: set[FileId] = set()
        self._links: list[tuple[str, str]] = []
        self._cairn_files: list[str] = []
        self._hidden: list[str] = []
        self._duplicates: list[str] = []
        self._special: list[str] = []
        self._not_entered: list[str] = []
        self._walk_tree(root, "")
        # A file below the root takes precedence over links to it.
        while self._links:
            links, self._links = sorted(self._links), []
            for path, name in links:
                self._follow_link(path, name)

    def left_out(self) -> str | None:
        """The files left out and the reasons, in one line; None when there are none."""
        reasons = (
            (self._cairn_files, "files that Cairn wrote"),
            (self._hidden, "hidden files and caches"),
            (self._duplicates, "links to files that are there already"),
            (self._special, "pipes and devices"),
            (self._not_entered, "folders, entered only by a pattern that ends in /**"),
        )
        parts = [f"{why}: {_first_names(sorted(names))}" for names, why in reasons if names]
        return f"{printable(self._root)}: left out {'; '.join(parts)}" if parts else None

    def _walk_tree(self, path: str, prefix: str) -> None:
        waiting = [(path, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
                key = _file_id(os.stat(folder))
            except OSError as error:
                raise cannot_read(folder, error) from None
            if key in self._folder_ids:
                self._duplicates.append(printable(prefix.rstrip("/")))
                continue
            self._folder_ids.add(key)
            kind = cairn_files.kind_of_folder(folder, {entry.name for entry in entries})
            if kind is not None and prefix:
                self._leave_out_folder(folder, prefix.rstrip("/"), kind)
                continue
            if kind == cairn_files.DATASET:
                raise UserError(
                    f"{printable(folder)} is a dataset folder, which holds tokens. Use a finished one as data.path;"
                    " finish an unfinished one with the command that began it"
                )
            if kind == cairn_files.RUN:
                entries = self._without_run_entries(entries)
            waiting += self._add_entries(entries, prefix)

    def _add_entries(self, entries: list[os.DirEntry[str]], prefix: str) -> Iterator[tuple[str, str]]:
        """Notes the files and links among the entries of a folder; yields the folders to enter."""
        for entry in entries:
            name = prefix + entry.name
            cache = entry.name in SKIPPED_FOLDERS and entry.is_dir()
            if (entry.name.startswith(".") or cache) and not self._wants_hidden:
                if self._pattern is None and entry.name != ".lock":  # Cairn's lock
                    self._hidden.append(printable(name))
            elif entry.is_symlink():
                self._links.append((entry.path, name))
            elif entry.is_dir():
                if self._is_entered(name):
                    yield entry.path, name + "/"
            elif self._matches_pattern(name):
                self._add_file(entry.path, name)

    def _add_file(self, path: str, name: str) -> None:
        """Notes a file, pipe or device."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise cannot_read(path, error) from None
        if not stat.S_ISREG(status.st_mode):
            self._special.append(printable(name))
        elif _file_id(status) in self._output_files:
            self._cairn_files.append(f"{printable(name)} (this command prints into it)")
        elif _file_id(status) in self._linked_ids:
            self._duplicates.append(printable(name))
        elif status.st_size or not may_be_empty(name):
            kind = _kind_of_file(path, name)
            if kind is None:
                self.files.append((path, name))
                self._file_ids.add(_file_id(status))
            else:
                self._cairn_files.append(f"{printable(name)} ({kind})")

    def _follow_link(self, path: str, name: str) -> None:
        """Notes the file that a link leads to, or walks the folder."""
        try:
            real = os.path.realpath(path, strict=True)
            status = os.stat(real)
        except OSError as error:
            if self._matches_pattern(name):
                missing = "leads to itself" if error.errno == errno.ELOOP else f"leads nowhere: {error.strerror}"
                raise UserError(f"{printable(path)} is a link that {missing}; fix it, or delete it") from None
            return
        folder = stat.S_ISDIR(status.st_mode)
        if folder and not self._is_entered(name):
            return
        if not folder and not self._matches_pattern(name):
            return
        run = cairn_files.enclosing_run(real)
        is_ancestor = folder and os.path.commonpath([real, os.path.realpath(os.path.dirname(path))]) == real
        if run is not None:
            self._cairn_files.append(f"{printable(name)} (of the run folder {printable(run)})")
        elif _file_id(status) in (self._folder_ids if folder else self._file_ids) or is_ancestor:
            self._duplicates.append(printable(name))
        elif folder:
            self._walk_tree(path, name + "/")
        else:
            self._add_file(path, name)
            self._linked_ids.add(_file_id(status))

    def _without_run_entries(self, entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """The user's own entries in a run folder, where the text and the run share one folder."""
        kept = []
        for entry in entries:
            folder = entry.is_dir()
            if entry.name in (cairn_files.RUN_FOLDERS if folder else cairn_files.RUN_FILES):
                if folder:
                    self._leave_out_folder(entry.path, entry.name, "of the run")
                elif self._matches_pattern(entry.name):
                    self._cairn_files.append(f"{printable(entry.name)} (of the run)")
            else:
                kept.append(entry)
        return kept

    def _leave_out_folder(self, folder: str, name: str, kind: str) -> None:
        """Notes a folder that Cairn wrote, and the number and size of the wanted files in it."""
        files = size = 0
        for below, _, names in os.walk(folder):
            for file in names:
                path = os.path.join(below, file)
                if self._matches_pattern(os.path.join(name, os.path.relpath(path, folder))):
                    files += 1
                    size += os.lstat(path).st_size if os.path.lexists(path) else 0
        if files:
            self._cairn_files.append(
                f"{printable(name)} ({kind}, {files:,} {'file' if files == 1 else 'files'}, {format_count(size)}B)"
            )

    def _is_entered(self, name: str) -> bool:
        """Whether files below a folder may match the pattern; notes a folder that matches only itself.

        A folder that is not entered must not hide a link to it, which has another name.
        """
        if self._pattern is None or may_match_below(name.split("/"), self._pattern):
            return True
        if self._matches_pattern(name):
            self._not_entered.append(printable(name))
        return False

    def _matches_pattern(self, name: str) -> bool:
        return self._pattern is None or matches(name.split("/"), self._pattern)


def matches(names: list[str], pattern: list[str]) -> bool:
    """Whether a path matches a pattern, part by part: `**` matches any number of parts, `*` no hidden name."""
    return len(pattern) in _pattern_positions(names, pattern)


def may_match_below(names: list[str], pattern: list[str]) -> bool:
    """Whether a path inside a folder, given the folder's path, may match a pattern."""
    return any(index < len(pattern) for index in _pattern_positions(names, pattern))


def _pattern_positions(names: list[str], pattern: list[str]) -> set[int]:
    """The indices in a pattern where its next part may follow a path; the pattern's length where the path matches."""

    def after_wildcards(indices: set[int]) -> set[int]:
        for index in sorted(indices):
            while index < len(pattern) and pattern[index] == "**":
                index += 1
                indices.add(index)
        return indices

    indices = after_wildcards({0})
    for name in names:
        following = set()
        for index in indices:
            if index == len(pattern):
                continue
            part = pattern[index]
            if name.startswith(".") and not part.startswith("."):
                continue
            if part == "**":
                following.add(index)
            elif fnmatch.fnmatchcase(name, part):
                following.add(index + 1)
        indices = after_wildcards(following)
    return indices


def may_be_empty(name: str) -> bool:
    """Whether an empty file of this name is a valid file without text, rather than a damaged file."""
    file_type = file_type_of(name)
    return file_type.compression is None and file_type.format != "parquet"


def _kind_of_file(path: str, name: str) -> str | None:
    if not name.lower().endswith((".html", ".htm", ".png")):
        return None
    with open_bytes(path) as file:
        return cairn_files.kind_of_file(name, file.read(HEAD))


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _file_id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


def _output_file_ids() -> Iterator[FileId]:
    """Yields the files into which this process prints."""
    for descriptor in (1, 2):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield _file_id(status)
