"""JSON files, read with errors that name them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

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
