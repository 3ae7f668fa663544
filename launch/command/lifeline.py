"""Processes that end with the command that started them, also when nothing could tell them: SIGKILL, no memory left.

The command holds one end of a pipe, and the processes that it starts hold the other. The system closes the first end
when the command ends, however it ends. A thread of each process waits for that, and sends its own process SIGTERM: a
run saves and ends, and the same command continues it.

Linux can send such a signal by itself (prctl, PR_SET_PDEATHSIG). A pipe is preferred because that signal belongs to the
thread that started the process, not to its program; because a command that ended before its process had asked for
the signal is noticed by no one; because a program between the two, such as a profiler, would get the signal in place of
the run; and because other systems have pipes too.
"""

import contextlib
import functools
import os
import signal
import stat
import sys
import threading
from collections.abc import Mapping

_VARIABLE = "CAIRN_LIFELINE"


@functools.cache
def _pipe() -> tuple[int, int]:
    """The ends of the pipe, for reading and for writing; the second is closed by the system alone."""
    return os.pipe()


def descriptors() -> tuple[int, ...]:
    """`pass_fds` of a process that is to end with this one."""
    return (_pipe()[0],)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """`env` of a process that is to end with this one: the variables, and where its end of the pipe is."""
    return {**variables, _VARIABLE: str(_pipe()[0])}


def end_with_parent() -> None:
    """Lets this process end with the command that started it, if that gave it an end of its pipe.

    The processes of this one do not see the variable, since they have no such end.
    """
    text = os.environ.pop(_VARIABLE, "")
    with contextlib.suppress(ValueError, OSError):  # an end that a program in between has closed
        descriptor = int(text)
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            threading.Thread(target=_wait, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)  # nobody writes: it returns when the other end is closed
    with contextlib.suppress(OSError):
        print("the command that started this process has ended, so it saves and ends too", file=sys.stderr, flush=True)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
