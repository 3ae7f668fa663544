"""JSON files and arrays on disk, with errors that name them."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from model.errors import UserError


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError that names the file, and the place where it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: expected JSON, got {error}; delete it and make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: expected a JSON object, got {type(value).__name__}")
    return value


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array as .npy, whole or not at all. Raises UserError when it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error.strerror or str(error)) from None


def cannot_write(path: pathlib.Path, why: str) -> UserError:
    """The error for a file of a dataset that cannot be written."""
    return UserError(f"cannot write {path}: {why}; mend that, then give the same command again: it goes on")
