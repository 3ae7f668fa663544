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
from train.checkpoints.files import MissingError, first_difference
from train.files.files import NOTHING_CHANGED
from train.files.paths import AnyPath

# Words in tensorstore's errors: for wrong or missing content, and for a system error.
_WRONG_CONTENT = re.compile("DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION|NOT_FOUND|Error reading")
_SYSTEM_ERROR = re.compile("os_error_code|OS error")
_DETAILS = re.compile(r" \[[\w ]+(\[\d+\])?='.*$")  # the end of these errors, for tensorstore's developers


class DamagedError(UserError):
    """A checkpoint whose bytes were read and are not those that were saved."""


class UnreadableError(UserError):
    """A checkpoint that cannot be read now; its bytes may be right."""


def damaged_error(checkpoint: AnyPath, how: str) -> DamagedError:
    """The error for a checkpoint's folder that is damaged in some way."""
    return DamagedError(f"checkpoint {checkpoint.name} in {checkpoint.parent} is damaged ({how})")


def unreadable_error(checkpoint: AnyPath, cause: str) -> UnreadableError:
    """The error for a checkpoint's folder that cannot be read for a cause."""
    return UnreadableError(
        f"checkpoint {checkpoint.name} in {checkpoint.parent} cannot be read: {cause}; {NOTHING_CHANGED}"
    )


def diagnose(
    checkpoint: AnyPath, error: Exception, restore_paths: Callable[[str], str] = str
) -> DamagedError | UnreadableError:
    """The meaning of a library's error, after a check of the files; `restore_paths` restores the user's paths in it."""
    if not isinstance(checkpoint, pathlib.Path):  # a store returns the bytes that it was given
        make_error = damaged_error if _reports_wrong_content(error) else unreadable_error
        return make_error(checkpoint, cause_message(error, restore_paths))
    try:
        wrong, compared = first_difference(checkpoint)
    except OSError as refused:
        error, wrong, compared = refused, None, True
    if not os.path.isdir(checkpoint) and not isinstance(error, PermissionError):
        return unreadable_error(checkpoint, "another process has removed it")
    if wrong is not None:
        return damaged_error(checkpoint, wrong)
    if not compared and _reports_wrong_content(error):
        return damaged_error(checkpoint, cause_message(error, restore_paths))
    return unreadable_error(checkpoint, cause_message(error, restore_paths))


def cause_message(error: BaseException, restore_paths: Callable[[str], str] = str) -> str:
    """The message of the first error in a chain of errors, on one line."""
    error = _root_cause(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {restore_paths(os.fsdecode(error.filename))}" if error.filename else "")
    text = _DETAILS.sub("", re.sub(r"\s+", " ", restore_paths(str(error))).strip())
    if not isinstance(error, UserError | ValueError | MissingError):  # other errors may have only a name as their text
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 400 else f"{text[:150]} ... {text[-245:]}"  # libraries put the cause at the end


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reports_wrong_content(error: BaseException) -> bool:
    """Whether a library's error reports wrong content or a missing file."""
    error = _root_cause(error)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | FileNotFoundError):
        return True
    text = str(error)
    return isinstance(error, ValueError) and not _SYSTEM_ERROR.search(text) and bool(_WRONG_CONTENT.search(text))
