"""The request to end a training run: the loop reads it between steps; a command sets it at a signal."""

import contextlib
import signal
from collections.abc import Iterator

# The signals that ask a command to end; see launch/command/signals.py.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


class Stop:
    """A request to end a training run.

    A script or a hook sets `requested` to a few words; the training then ends after the current step, with a
    checkpoint. This class handles no signals: library code leaves signal handlers alone.

    Attributes:
      requested: the reason, such as the name of a signal; None before any request.
    """

    def __init__(self) -> None:
        self.requested: str | None = None

    @contextlib.contextmanager
    def raise_immediately(self) -> Iterator[None]:
        """Inside the context a request may raise KeyboardInterrupt, for long work that can stop anywhere."""
        yield
