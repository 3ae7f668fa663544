"""Why a checkpoint could not be read: damage, or a fault of something else.

Damage is what was read and is wrong. A permission, a disk that does not answer, too little memory, a race with another
process or a library that fails say nothing of the bytes; nothing may be moved, removed or begun anew for them.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable

from model.errors import UserError
from train.checkpoints.files import MissingError, difference
from train.files.files import AS_IT_WAS
from train.files.paths import AnyPath

# Words in the errors of tensorstore: for content that is wrong or missing, and for an error of the system.
_FOUND_WRONG = re.compile("DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION|NOT_FOUND|Error reading")
_OF_THE_SYSTEM = re.compile("os_error_code|OS error")
_DETAILS = re.compile(r" \[[\w ]+(\[\d+\])?='.*$")  # the end of such an error, for its developers


class DamagedError(UserError):
    """A checkpoint whose bytes were read and are not those that were saved."""


class UnreadableError(UserError):
    """A checkpoint that cannot be read now, which says nothing of its bytes."""


def damaged(checkpoint: AnyPath, how: str) -> DamagedError:
    """The error for a checkpoint's folder that is damaged in some way."""
    return DamagedError(f"checkpoint {checkpoint.name} in {checkpoint.parent} is damaged ({how})")


def unreadable(checkpoint: AnyPath, cause: str) -> UnreadableError:
    """The error for a checkpoint's folder that cannot be read for a cause."""
    return UnreadableError(f"checkpoint {checkpoint.name} in {checkpoint.parent} cannot be read: {cause}; {AS_IT_WAS}")


def explain(checkpoint: AnyPath, error: Exception, named: Callable[[str], str] = str) -> DamagedError | UnreadableError:
    """What a library's error means, after a look at the files that it read; `named` puts the user's paths into it."""
    if not isinstance(checkpoint, pathlib.Path):  # whose store gives back what it was given
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
    """What went wrong at the bottom of a chain of errors, on one line."""
    error = _bottom(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {named(os.fsdecode(error.filename))}" if error.filename else "")
    text = _DETAILS.sub("", re.sub(r"\s+", " ", named(str(error))).strip())
    if not isinstance(error, UserError | ValueError | MissingError):  # the text of others may be a name alone
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 400 else f"{text[:150]} ... {text[-245:]}"  # libraries put the cause at the end


def _bottom(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _found_wrong(error: BaseException) -> bool:
    """Whether a library's error says that it read something and found it wrong, or found a file missing."""
    error = _bottom(error)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | FileNotFoundError):
        return True
    text = str(error)
    return isinstance(error, ValueError) and not _OF_THE_SYSTEM.search(text) and bool(_FOUND_WRONG.search(text))
