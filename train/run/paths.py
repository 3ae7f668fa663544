"""Paths as people write them: `~` and `~user` are written out here, for every flag and every field of an option."""

import dataclasses
import os
import pathlib
from typing import Any, TypeVar

from model.errors import UserError

T = TypeVar("T")
# The metadata of a field of an option that holds a path.
IS_PATH = {"path": True}


def expanded(path: str) -> str:
    """A path with the home folder at its beginning written out.

    Raises UserError where no such folder is known, and for a path that no file can have.
    """
    if "\0" in path:
        raise UserError(f"{path!r} holds a NUL, which no file has in its name")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise UserError(f"{path!r} holds half of a surrogate pair, which no file has in its name") from None
    if not path.startswith("~"):
        return path
    user, home = path.partition("/")[0][1:], os.environ.get("HOME")
    mend = f"write the path out, or ./{path} for a name that begins with ~"
    if not user and home is not None and not os.path.isabs(home):
        raise UserError(f"{path}: HOME is {home!r}, expected an absolute path; {mend}")
    full = os.path.expanduser(path)
    if full == path:
        raise UserError(
            f"{path}: this system knows no user {user!r}; {mend}"
            if user
            else f"{path}: HOME is not set, and this system knows no user with the number {os.getuid()}; {mend}"
        )
    return full


def as_path(path: str | pathlib.Path) -> pathlib.Path:
    """A path that a script gives: text is expanded, a Path is not, as it drops the ./ of a name that begins with ~."""
    return pathlib.Path(expanded(path)) if isinstance(path, str) else path


def written_out(option: T, name: str = "") -> T:
    """A tree of options with the paths in it expanded. Raises UserError that names the field, under `name`."""
    if isinstance(option, tuple):
        items = tuple(written_out(item, f"{name}[{i}]") for i, item in enumerate(option))
        return option if all(a is b for a, b in zip(items, option, strict=True)) else items  # type: ignore[return-value]
    if not dataclasses.is_dataclass(option) or isinstance(option, type):  # a class with no brackets behind it
        return option
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(option):
        before, where = getattr(option, field.name), f"{name}.{field.name}" if name else field.name
        try:
            is_path = isinstance(before, str) and "path" in field.metadata
            if is_path and not before:
                raise UserError(" is empty; expected a path, which . is as well")
            after = expanded(before) if is_path else written_out(before, where)
        except UserError as error:
            raise UserError(f"{where}={error}" if is_path else str(error)) from None
        if after is not before:
            changed[field.name] = after
    return dataclasses.replace(option, **changed) if changed else option


def require_utf8(folder: pathlib.Path) -> None:
    """Raises UserError for a folder to write into whose path is no UTF-8, which the libraries that write there need."""
    path = os.fsencode(os.path.abspath(folder))  # its bytes, which any locale has: text may hold them as surrogates
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(
            f"{folder}: the path of a folder that is written must be UTF-8, and this one is {path!r}; give another one"
        ) from None
