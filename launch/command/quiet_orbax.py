"""Silences warnings and tracebacks of orbax that would bury the one message that counts."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any


def quiet_orbax() -> None:
    """Silences orbax's warnings and late tracebacks; its exceptions still report errors.

    Orbax warns at every save. When one of its readers or writers fails, it ends at once, and the other readers and
    writers cannot report to it any more; their warnings and tracebacks would bury the one message that counts.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_is_not_from_orbax)
    hook: Any = sys.unraisablehook
    while hook is not None:
        if isinstance(hook, _UnraisableFilter):
            return
        hook = getattr(hook, "before", None)
    sys.unraisablehook = _UnraisableFilter(sys.unraisablehook)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    text = f"{record.pathname} {record.getMessage()}".lower()
    return "orbax" not in text and "tensorstore" not in text  # asyncio names the error of a gathered read alone


class _UnraisableFilter:
    """A hook for exceptions that no code can catch; it passes on all except those of orbax's late writers."""

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        code = getattr(unraisable.object, "cr_code", None)
        if not closed and not (code is not None and "orbax" in code.co_filename):
            self.before(unraisable)
