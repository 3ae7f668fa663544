"""The request to end a training: the loop asks for it between steps, and a command that is sent a signal makes it."""

import contextlib
import signal
from collections.abc import Iterator

# The signals that ask a command to end; see launch/signals.py.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOPS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


class Stop:
    """A request to end, which nobody has made yet.

    A script or a hook sets `requested` to a few words, and the training ends after the step under way, with a
    checkpoint. Signals are handled by none of this: library code leaves them as they are.

    Attributes:
      requested: who or what asks for it, such as the name of a signal; None while nothing does.
    """

    def __init__(self) -> None:
        self.requested: str | None = None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a request may raise KeyboardInterrupt: for long work that can be cut anywhere."""
        yield
