"""Paths from users: expands `~` and `~user`, for every flag and every field of an option.

A path of this machine is a `pathlib.Path`, with any bytes in its name; a path in a store, such as gs://bucket/run, is
an `etils.epath.Path`. Both have the same methods, and `user_path` chooses. etils itself would read /gs/x as a bucket.
"""

import dataclasses
import os
import pathlib
from typing import Any, TypeAlias, TypeVar

from etils import epath

from model.errors import UserError

T = TypeVar("T")
AnyPath: TypeAlias = pathlib.Path | epath.Path
# The metadata of a field of an option that holds a path.
IS_PATH = {"path": True}


def expand_home(path: str) -> str:
    """A path with the home folder at its beginning expanded.

    Raises UserError if the home folder is not known, and for a path that no file can have.
    """
    if "\0" in path:
        raise UserError(f"{path!r} contains a NUL character, which no file name can contain")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise UserError(f"{path!r} contains half of a surrogate pair, which no file name can contain") from None
    if not path.startswith("~"):
        return path
    user, home = path.partition("/")[0][1:], os.environ.get("HOME")
    remedy = f"write the path out, or ./{path} for a name that begins with ~"
    if not user and home is not None and not os.path.isabs(home):
        raise UserError(f"{path}: HOME is {home!r}, expected an absolute path; {remedy}")
    full = os.path.expanduser(path)
    if full == path:
        raise UserError(
            f"{path}: this system knows no user {user!r}; {remedy}"
            if user
            else f"{path}: HOME is not set, and this system knows no user with the number {os.getuid()}; {remedy}"
        )
    return full


def is_remote(path: str | os.PathLike[str] | AnyPath) -> bool:
    """Whether a path is in a store: text with a scheme that etils knows, or a path that `literal_path` made from it."""
    if not isinstance(path, str):
        return isinstance(path, epath.Path) and "://" in str(path)
    scheme, separator, _ = path.partition("://")
    if not separator or not scheme.isalnum() or scheme == "hf":  # data sets of hf are read by name, hf:NAME
        return False
    try:
        epath.Path(path)
    except KeyError:  # an unusual file name on this machine
        return False
    return True


def literal_path(path: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """The path of a text from a file or from an expanded option: nothing in it is expanded again."""
    if isinstance(path, str) and is_remote(path):
        return epath.Path(path)
    return path if is_remote(path) else pathlib.Path(path)


def user_path(path: str | AnyPath) -> AnyPath:
    """A path from a user: text is expanded; a Path is not, since it drops the ./ before a name that begins with ~."""
    return literal_path(expand_home(path)) if isinstance(path, str) else path


def local_path(path: str | os.PathLike[str] | AnyPath, purpose: str) -> pathlib.Path:
    """A path of this machine, taken literally. Raises UserError, which begins with `purpose`, for one in a store."""
    if is_remote(path):
        raise UserError(f"{purpose} must be on a disk of this machine: got {path}; give a local path and copy it")
    return pathlib.Path(path)


def absolute(path: AnyPath) -> AnyPath:
    """An absolute path; a path in a store is absolute already."""
    return path.absolute() if isinstance(path, pathlib.Path) else path


def expand_paths(option: T, name: str = "") -> T:
    """A tree of options with the paths in it expanded. Raises UserError that names the field, under `name`."""
    if isinstance(option, tuple):
        items = tuple(expand_paths(item, f"{name}[{i}]") for i, item in enumerate(option))
        return option if all(a is b for a, b in zip(items, option, strict=True)) else items  # type: ignore[return-value]
    if not dataclasses.is_dataclass(option) or isinstance(option, type):  # a class, not an option
        return option
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(option):
        before, where = getattr(option, field.name), f"{name}.{field.name}" if name else field.name
        try:
            is_path = isinstance(before, str) and "path" in field.metadata
            if is_path and not before:
                raise UserError(" is empty; expected a path, such as . for the current folder")
            after = expand_home(before) if is_path else expand_paths(before, where)
        except UserError as error:
            raise UserError(f"{where}={error}" if is_path else str(error)) from None
        if after is not before:
            changed[field.name] = after
    return dataclasses.replace(option, **changed) if changed else option


def require_utf8(folder: pathlib.Path) -> None:
    """Raises UserError if the path of a folder to write is not UTF-8, which the libraries that write there require."""
    path = os.fsencode(os.path.abspath(folder))  # the bytes, the same in any locale: text may hold them as surrogates
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(
            f"{folder}: the path of a folder that is written must be UTF-8, and this one is {path!r}; give another one"
        ) from None
