"""Signals as requests to stop: finish the step, save, exit.

A scheduler sends SIGTERM before it takes a machine away; a person presses Ctrl-C (SIGINT); a closed terminal and a
broken ssh connection send SIGHUP; batch systems warn of the time limit with SIGUSR1, SIGUSR2 (`sbatch --signal`, `qsub
-notify`) or SIGXCPU. Each signal sets a flag that the loop reads between steps. A second Ctrl-C interrupts at once, and
so does any signal while there is nothing to save. SIGQUIT is not handled: it ends a process without saving.
"""

import _thread
import contextlib
import importlib.machinery
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from train.process.stop import STOP_SIGNALS, Stop

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again and it continues

Handler = Callable[[int, FrameType | None], None]


class SignalStop(KeyboardInterrupt):
    """Raised by a signal that asks the process to end; its text is the signal's name."""


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


def _exception_for(number: int) -> KeyboardInterrupt:
    """The exception that a handler raises for a signal."""
    name = signal.Signals(number).name
    return _Interrupted(name) if number == signal.SIGINT else SignalStop(name)


@contextlib.contextmanager
def signal_handlers(signals: Iterable[signal.Signals], handler: Handler) -> Iterator[None]:
    """Handles signals inside the context; an ignored signal stays ignored, as SIGHUP does under nohup.

    SIGINT is handled even if it is ignored: shell scripts make their background jobs ignore it, but a person who sends
    it wants it handled.
    Outside the main thread Python cannot handle signals, so nothing is handled there.

    Python loses an exception of the handler if it is raised in a callback of the garbage collector or in a `__del__`;
    then the signal is sent again.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in signals}
        ignored = {number for number, before in previous.items() if before == signal.SIG_IGN} - {signal.SIGINT}
        previous = {number: before for number, before in previous.items() if number not in ignored}
    hook = sys.unraisablehook

    def resend_lost_signal(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, SignalStop | _Interrupted):
            hook(unraisable)
            return
        number = signal.Signals[str(unraisable.exc_value)]
        if number in previous:
            signal.signal(number, handler)
        _resend(number)

    resend_lost_signal.before = hook  # type: ignore[attr-defined]  # for code that walks the chain of hooks
    for number in previous:
        signal.signal(number, handler)
    if previous:
        sys.unraisablehook = resend_lost_signal
    try:
        yield
    finally:
        if sys.unraisablehook is resend_lost_signal:  # else another hook has replaced it, which stays
            sys.unraisablehook = hook
        for number, before in previous.items():
            if before is not None:  # a handler that Python did not set, and cannot put back
                signal.signal(number, before)


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Inside the context a signal raises `SignalStop`, so that unfinished work is cleaned up; a second signal kills.

    Ctrl-C raises KeyboardInterrupt, unless it is ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if _resent_while_loading(number, frame):
            return
        signal.signal(number, signal.SIG_DFL)
        raise _exception_for(number)

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    with signal_handlers((number for number in STOP_SIGNALS if not (ignored and number == signal.SIGINT)), stop):
        yield


def _resent_while_loading(number: int, frame: FrameType | None) -> bool:
    """Whether a signal comes while a compiled module is being loaded; if so, sends the signal again a little later.

    An exception during loading would crash the process in some C++ libraries.
    """
    while frame is not None:
        loading = isinstance(frame.f_locals.get("self"), importlib.machinery.ExtensionFileLoader)
        if loading or (frame.f_code.co_name == "resend_lost_signal" and frame.f_code.co_filename == __file__):
            _resend(number)
            return True
        frame = frame.f_back
    return False


def _resend(number: int) -> None:
    def wait_and_send() -> None:
        time.sleep(0.02)
        signal.pthread_kill(main, number)

    main = threading.main_thread().ident or 0
    _thread.start_new_thread(wait_and_send, ())  # Thread.start would wait for it, possibly as long as it sleeps


class StopRequest(Stop):
    """A context manager that watches for the signals of `STOP_SIGNALS`.

    Attributes:
      requested: the name of the last signal that came; None before any.
    """

    def __init__(self) -> None:
        super().__init__()
        self._raise_immediately = False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        """Starts to watch, as `signal_handlers` does."""
        self._handlers.enter_context(signal_handlers(STOP_SIGNALS, self._on_signal))
        return self

    def __exit__(self, *exception: object) -> None:
        """Restores the previous handlers."""
        self._handlers.close()

    @contextlib.contextmanager
    def raise_immediately(self) -> Iterator[None]:
        """Inside the context a signal also raises KeyboardInterrupt, for long work that can stop anywhere.

        So does a signal that came before.
        """
        if self.requested is not None:
            raise _exception_for(signal.Signals[self.requested])
        self._raise_immediately = True
        try:
            yield
        finally:
            self._raise_immediately = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        raises = self._raise_immediately or (self.requested is not None and number == signal.SIGINT)
        if raises and _resent_while_loading(number, frame):
            return
        self.requested = signal.Signals(number).name
        if raises:
            raise _exception_for(number)
