"""Small files written whole or not at all, read with errors that name them."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

from model.errors import UserError


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that no reader ever sees a part of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError that names the file, and the place where it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged: expected JSON, got {error}; delete it and make it again"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: expected a JSON object, got {type(value).__name__}")
    return value
