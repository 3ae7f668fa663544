"""Files in object stores (gs://, s3://, az://, as `etils.epath` names them): read in place, or copied here first.

Small files are read where they lie. Texts, shards of datasets and tokenizers are read by libraries that need a file of
this machine, so they are copied into a cache, `$CAIRN_CACHE` or ~/.cache/cairn/remote, under a name that their content
decides; a second command finds them there. Nothing removes them.
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
from train.files.files import cannot_write, filled
from train.files.paths import AnyPath, expanded

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}


class Found(NamedTuple):
    """A file in a store: where, its path below what was asked for, its bytes, and when it was written."""

    path: epath.Path
    name: str
    size: int
    changed: float


@contextlib.contextmanager
def read_errors(path: AnyPath) -> Iterator[None]:
    """Raises UserError, with the path, for whatever goes wrong in the library of a store; paths here are left alone."""
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


def say(line: str) -> None:
    """Tells the user a line, on standard error."""
    print(line, file=sys.stderr)


def cache_folder() -> pathlib.Path:
    """The folder of copies."""
    return pathlib.Path(expanded(os.environ.get("CAIRN_CACHE") or "~/.cache/cairn/remote")).absolute()


def fetched(path: AnyPath, wanted: Callable[[str], bool] | None = None, content: str | None = None) -> pathlib.Path:
    """A file or folder as one of this machine: itself, or a copy in the cache of what lies in a store.

    Args:
      path: the file or folder.
      wanted: tells from the path of a file below the folder whether to copy it; None copies all of them.
      content: what decides the bytes of the files; None where their sizes and times have to do.

    Raises UserError when there is no such thing, when it cannot be read, and when the copy cannot be written.
    """
    if isinstance(path, pathlib.Path):
        return path
    with read_errors(path):
        files = [found for found in files_of(path) if wanted is None or wanted(found.name)]
    listed = [content] if content else [str(path), *([found.size, found.changed] for found in files)]
    described = json.dumps([listed, [found.name for found in files]])
    key = hashlib.sha256(described.encode("ascii")).hexdigest()[:32]
    home = cache_folder() / key
    if not (home / path.name).exists():
        size = sum(found.size for found in files)
        if size > 1 << 20:
            say(f"{path}: copying {size / 2**20:,.0f} MiB to {home}, where the next command finds them")
        try:
            copy_into(path, files, home)
        except OSError as error:
            raise cannot_write(home, error) from error
    return home / path.name


def files_of(path: epath.Path) -> list[Found]:
    """The files below a path in the order of their names; a file alone has the name "". Raises what the store does."""
    if not path.is_dir():
        about = path.stat()
        return [Found(path, "", about.length, about.mtime)]
    found = []
    waiting = [(path, "")]
    while waiting:
        folder, prefix = waiting.pop()
        for child in folder.iterdir():
            about = child.stat()
            if about.is_directory:
                waiting.append((child, f"{prefix}{child.name}/"))
            else:
                found.append(Found(child, prefix + child.name, about.length, about.mtime))
    return sorted(found, key=lambda one: one.name)


def copy_into(path: epath.Path, files: list[Found], home: pathlib.Path) -> None:
    """Fills the folder `home` with a copy of `path` of its name.

    Another process may do so at the same time, and then its copy stays. Raises OSError when it cannot be written.
    """
    try:
        with filled(home, f".{os.getpid()}") as part:
            (part / path.name).parent.mkdir(exist_ok=True)
            if not (len(files) == 1 and not files[0].name):
                (part / path.name).mkdir()
            for found in files:
                target = part / path.name / found.name if found.name else part / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with read_errors(found.path):
                    source = found.path.open("rb")
                with source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except OSError:
        if not (home / path.name).exists():
            raise
