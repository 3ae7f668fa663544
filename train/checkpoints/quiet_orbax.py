"""Silences warnings and tracebacks of orbax that would bury the one message that counts."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any


def quiet_orbax() -> None:
    """Leaves it to exceptions to say what goes wrong in orbax.

    It warns of every save. And when one of its readers or writers fails, it ends at once, so that each of the others
    finds nobody to tell; their warnings and tracebacks would bury the one message that counts.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_not_of_orbax)
    if sys.unraisablehook is not _not_of_late_writers:
        _hooks.append(sys.unraisablehook)
        sys.unraisablehook = _not_of_late_writers


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()


_hooks: list[Callable[[Any], Any]] = []


def _not_of_late_writers(unraisable: Any) -> None:
    closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
    code = getattr(unraisable.object, "cr_code", None)
    if not closed and not (code is not None and "orbax" in code.co_filename):
        _hooks[-1](unraisable)
