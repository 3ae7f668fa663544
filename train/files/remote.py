"""Files in object stores (gs://, s3://, az://, with the schemes of `etils.epath`): read in place, or copied here first.

Small files are read in place. Texts, shards of datasets and tokenizers are read by libraries that need a file on this
machine, so they are copied into a cache, `$CAIRN_CACHE` or ~/.cache/cairn/remote, under a name that depends on their
content; a second command finds them there. Nothing removes them.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from etils import epath

from model.errors import UserError
from train.files.files import atomic_folder, cannot_write
from train.files.paths import AnyPath, expand_home

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}


class RemoteFile(NamedTuple):
    """A file in a store: its path, its path below the requested folder, its bytes, and the time of its last write."""

    path: epath.Path
    name: str
    size: int
    changed: float


@contextlib.contextmanager
def convert_read_errors(path: AnyPath) -> Iterator[None]:
    """Turns every error of a store's library into UserError with the path; does nothing for paths of this machine."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every store has errors of its own
        if isinstance(path, pathlib.Path):
            raise
        scheme = str(path).partition("://")[0]
        if isinstance(error, ImportError):
            package = PACKAGES.get(scheme, f"of {scheme}://")
            raise UserError(f"{path} needs the package {package}: pip install {package}") from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise UserError(f"{path} is not there, or may not be seen with these credentials") from error
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot read {path}: {why[0][:300]}; nothing was changed") from error


def print_to_stderr(line: str) -> None:
    """Prints a line for the user on standard error."""
    print(line, file=sys.stderr)  # standard output is for results


def cache_folder() -> pathlib.Path:
    """The folder of the copied files."""
    return pathlib.Path(expand_home(os.environ.get("CAIRN_CACHE") or "~/.cache/cairn/remote")).absolute()


def local_copy(path: AnyPath, include: Callable[[str], bool] | None = None, content: str | None = None) -> pathlib.Path:
    """The local path of a file or folder: the path itself, or, if it is in a store, the path of a copy in the cache.

    Args:
      path: the file or folder.
      include: returns whether to copy a file, given its path below the folder; None copies all files.
      content: a text that identifies the bytes of the files; None to use their sizes and times instead.

    Raises UserError when the path does not exist, when it cannot be read, and when the copy cannot be written.
    """
    if isinstance(path, pathlib.Path):
        return path
    with convert_read_errors(path):
        files = [found for found in list_files(path) if include is None or include(found.name)]
    listed = [content] if content else [str(path), *([found.size, found.changed] for found in files)]
    described = json.dumps([listed, [found.name for found in files]])
    key = hashlib.sha256(described.encode("ascii")).hexdigest()[:32]
    home = cache_folder() / key
    if not (home / path.name).exists():
        size = sum(found.size for found in files)
        if size > 1 << 20:
            print_to_stderr(f"{path}: copying {size / 2**20:,.0f} MiB to {home}, where the next command finds them")
        try:
            copy_into(path, files, home)
        except OSError as error:
            raise cannot_write(home, error) from error
    return home / path.name


def list_files(path: epath.Path) -> list[RemoteFile]:
    """The files below a path, sorted by name; a single file has the name "". Raises the errors of the store."""
    if not path.is_dir():
        about = path.stat()
        return [RemoteFile(path, "", about.length, about.mtime)]
    found = []
    waiting = [(path, "")]
    while waiting:
        folder, prefix = waiting.pop()
        for child in folder.iterdir():
            about = child.stat()
            if about.is_directory:
                waiting.append((child, f"{prefix}{child.name}/"))
            else:
                found.append(RemoteFile(child, prefix + child.name, about.length, about.mtime))
    return sorted(found, key=lambda one: one.name)


def copy_into(path: epath.Path, files: list[RemoteFile], home: pathlib.Path) -> None:
    """Copies `path` into the folder `home`, under the name of `path`.

    If another process does so at the same time, its copy stays. Raises OSError when the copy cannot be written.
    """
    try:
        with atomic_folder(home, f".{os.getpid()}") as part:
            (part / path.name).parent.mkdir(exist_ok=True)
            if not (len(files) == 1 and not files[0].name):
                (part / path.name).mkdir()
            for found in files:
                target = part / path.name / found.name if found.name else part / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with convert_read_errors(found.path):
                    source = found.path.open("rb")
                with source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except OSError:
        if not (home / path.name).exists():
            raise
