"""Finds out why a checkpoint could not be read: damage, or another fault.

A checkpoint is damaged if its bytes were read and are wrong. A permission, a disk that does not answer, too little
memory, a race with another process or a failing library say nothing about the bytes. For these faults nothing may be
moved, removed or started again.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable

from model.errors import UserError
from train.checkpoints.files import MissingError, difference
from train.files.files import NOTHING_CHANGED
from train.files.paths import AnyPath

# Words in tensorstore's errors: for wrong or missing content, and for a system error.
_FOUND_WRONG = re.compile("DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION|NOT_FOUND|Error reading")
_OF_THE_SYSTEM = re.compile("os_error_code|OS error")
_DETAILS = re.compile(r" \[[\w ]+(\[\d+\])?='.*$")  # the end of these errors, for tensorstore's developers


class DamagedError(UserError):
    """A checkpoint whose bytes were read and are not those that were saved."""


class UnreadableError(UserError):
    """A checkpoint that cannot be read now; its bytes may be right."""


def damaged(checkpoint: AnyPath, how: str) -> DamagedError:
    """The error for a checkpoint's folder that is damaged in some way."""
    return DamagedError(f"checkpoint {checkpoint.name} in {checkpoint.parent} is damaged ({how})")


def unreadable(checkpoint: AnyPath, cause: str) -> UnreadableError:
    """The error for a checkpoint's folder that cannot be read for a cause."""
    return UnreadableError(
        f"checkpoint {checkpoint.name} in {checkpoint.parent} cannot be read: {cause}; {NOTHING_CHANGED}"
    )


def explain(checkpoint: AnyPath, error: Exception, named: Callable[[str], str] = str) -> DamagedError | UnreadableError:
    """The meaning of a library's error, after a check of the files that it read; `named` restores the user's paths."""
    if not isinstance(checkpoint, pathlib.Path):  # a store returns the bytes that it was given
        return (damaged if _found_wrong(error) else unreadable)(checkpoint, cause(error, named))
    try:
        wrong, compared = difference(checkpoint)
    except OSError as refused:
        error, wrong, compared = refused, None, True
    if not os.path.isdir(checkpoint) and not isinstance(error, PermissionError):
        return unreadable(checkpoint, "another process has removed it")
    if wrong is not None:
        return damaged(checkpoint, wrong)
    if not compared and _found_wrong(error):
        return damaged(checkpoint, cause(error, named))
    return unreadable(checkpoint, cause(error, named))


def cause(error: BaseException, named: Callable[[str], str] = str) -> str:
    """The message of the first error in a chain of errors, on one line."""
    error = _bottom(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {named(os.fsdecode(error.filename))}" if error.filename else "")
    text = _DETAILS.sub("", re.sub(r"\s+", " ", named(str(error))).strip())
    if not isinstance(error, UserError | ValueError | MissingError):  # other errors may have only a name as their text
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 400 else f"{text[:150]} ... {text[-245:]}"  # libraries put the cause at the end


def _bottom(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _found_wrong(error: BaseException) -> bool:
    """Whether a library's error reports wrong content or a missing file."""
    error = _bottom(error)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | FileNotFoundError):
        return True
    text = str(error)
    return isinstance(error, ValueError) and not _OF_THE_SYSTEM.search(text) and bool(_FOUND_WRONG.search(text))
