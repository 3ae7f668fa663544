"""Threads that take turns: one runs at a time, until it asks for something; then it waits for the answer.

They are coroutines that may wait at any depth of calls: a training run asks for a step in its loop, and for the
evaluation of a batch within a hook. No two run at once, so they share what they like without locks.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class Turn:
    """A thread that takes turns with others.

    Attributes:
      name: the name of the thread.
      request: what it asks for, None before it does.
      result: what its work returned.
      error: what its work raised, None if it did not.
      ended: whether its work has ended.
    """

    def __init__(self, name: str, work: Callable[["Turn"], Any]) -> None:
        """Args: the name, and the work; it gets this object, and calls its `ask`."""
        self.name, self._work = name, work
        self.request: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self._running = False
        self._answer: Any = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A daemon: a process that ends does not wait for work that was given up.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def ask(self, request: Any) -> Any:
        """Called by the work: ends the turn, and returns the answer at the beginning of the next one.

        Raises the error that it is answered with.
        """
        self._requests.put(request)
        answer = self._answers.get()
        if isinstance(answer, _Failure):
            raise answer.error
        return answer

    def answer(self, value: Any) -> None:
        """Answers the request; the thread gets it when its turn comes."""
        self.request, self._answer = None, value

    def fail(self, error: BaseException) -> None:
        """Answers the request with an error."""
        self.answer(_Failure(error))

    def go(self) -> None:
        """Lets the thread run until it asks or ends."""
        self._running = True
        answer, self._answer = self._answer, None
        if self._thread.is_alive():
            self._answers.put(answer)
        else:
            self._thread.start()
        del answer  # it may hold arrays
        self.request = self._requests.get()
        self._running = False
        if self.request is None:
            self._thread.join()
            self.ended = True

    def give_up(self, error: BaseException) -> None:
        """Ends the thread with an error where it waits; one that is running is left to itself."""
        while not (self.ended or self._running) and self._thread.is_alive():
            self.fail(error)
            self.go()

    def _run(self) -> None:
        try:
            self.result = self._work(self)
        except BaseException as error:  # the caller decides which of them it raises again
            self.error = error
        finally:
            self._requests.put(None)


def take_turns(turns: Sequence[Turn], serve: Callable[[Sequence[Turn]], None]) -> None:
    """Runs all threads to their ends.

    `serve` is called when all that have not ended are waiting, with them; it answers at least one. Where it raises an
    error, or this thread is interrupted, the threads end with the same error.
    """
    try:
        while True:
            for turn in turns:
                if not turn.ended and turn.request is None:
                    turn.go()
            if not (waiting := [turn for turn in turns if not turn.ended]):
                return
            serve(waiting)
    except BaseException as error:
        for turn in turns:
            turn.give_up(error)
        raise
