"""The one thread that owns an engine of texts: other threads hand requests in, and listen to what becomes of them.

A listener is called in the worker's thread, with `Accepted` or `Refused` first, then with a `TextChange` for every
change of a text of its requests; `Failed` may come at any time and is the last. It returns at once and raises nothing.
A ticket that is cancelled before its turn has no events.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence

from model.errors import UserError
from train.generation.text_engine import TextEngine, TextRequest, TextUpdate


class QueueFullError(Exception):
    """More requests than the queue holds; its text gives the numbers."""


class EngineFailedError(Exception):
    """The engine raised an error and takes no more requests."""


@dataclasses.dataclass(frozen=True)
class Accepted:
    """All requests of a ticket are with the engine."""


@dataclasses.dataclass(frozen=True)
class Refused:
    """The engine refused a request of a ticket, and so all of them."""

    error: UserError


@dataclasses.dataclass(frozen=True)
class Failed:
    """The engine raised an error; no text of this ticket goes on."""

    error: BaseException


@dataclasses.dataclass(frozen=True)
class TextChange:
    """A change of the text of one of a ticket's requests, by its index."""

    index: int
    update: TextUpdate


Event = Accepted | Refused | Failed | TextChange
Listener = Callable[[Event], None]


class Ticket:
    """Requests that were handed in together. `num_unfinished` of them are not complete."""

    def __init__(self, requests: Sequence[TextRequest], listener: Listener) -> None:
        self.requests, self.listener = tuple(requests), listener
        self.num_unfinished = len(self.requests)
        self.cancelled = False
        self.ids: list[int] = []


class EngineWorker:
    """Runs an engine of texts in a thread of its own until `close`.

    Attributes:
      capacity: the most requests that may be unfinished at once, running and waiting.
      failure: the error that ended the engine; None while it works.
      on_failure: is called when the engine fails, after the listeners.
    """

    def __init__(self, engine: TextEngine, capacity: int) -> None:
        """Args: the engine, and `capacity`."""
        self.capacity = capacity
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._engine = engine
        self._unfinished = 0
        self._unfinished_tickets: set[Ticket] = set()
        self._inbox: collections.deque[Callable[[], None]] = collections.deque()
        self._owners: dict[int, tuple[Ticket, int]] = {}  # of the worker's thread, like the engine
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_unfinished(self) -> int:
        """The number of requests that were handed in and are not complete."""
        return self._unfinished

    @property
    def statistics(self) -> object:
        """The counters of the engine."""
        return self._engine.statistics

    def submit(self, requests: Sequence[TextRequest], listener: Listener) -> Ticket:
        """Hands in requests; the listener hears of them. Any thread may call this, and it returns at once.

        Raises QueueFullError when they do not fit beside the unfinished ones, and EngineFailedError after a failure and
        after `close`.
        """
        ticket = Ticket(requests, listener)
        with self._condition:
            if self.failure is not None or self._closing:
                raise EngineFailedError("the engine has ended" if self.failure is None else repr(self.failure))
            if self._unfinished + len(requests) > self.capacity:
                raise QueueFullError(
                    f"{self._unfinished} texts are unfinished, and {len(requests)} more exceed the limit of "
                    f"{self.capacity}"
                )
            self._unfinished += len(requests)
            self._unfinished_tickets.add(ticket)
            self._inbox.append(lambda: self._begin(ticket))
            self._condition.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends what is unfinished of a ticket. Any thread may call this; no effect when all of it is complete."""
        with self._condition:
            ticket.cancelled = True
            self._inbox.append(lambda: self._cancel(ticket))
            self._condition.notify()

    def close(self, timeout: float = 60.0) -> None:
        """Cancels all requests, and ends the thread when their listeners know. Waits for it `timeout` seconds."""
        with self._condition:
            self._closing = True
            self._inbox.append(self._cancel_all)
            self._condition.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._inbox or self._engine.num_unfinished or self._closing)
                commands, self._inbox = self._inbox, collections.deque()
                if self._closing and not commands and not self._engine.num_unfinished:
                    return
            try:
                for command in commands:
                    command()
                for update in self._engine.step() if self._engine.num_unfinished else ():
                    self._deliver(update)
            except BaseException as error:
                self._fail(error)
                return

    def _begin(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            self._finish(ticket, ticket.num_unfinished)
            return
        try:
            for index, request in enumerate(ticket.requests):
                number = self._engine.submit(request)
                ticket.ids.append(number)
                self._owners[number] = (ticket, index)
        except UserError as error:
            for number in ticket.ids:
                self._engine.cancel(number)
                del self._owners[number]
            self._finish(ticket, ticket.num_unfinished)
            ticket.listener(Refused(error))
        else:
            ticket.listener(Accepted())

    def _cancel(self, ticket: Ticket) -> None:
        for number in ticket.ids:
            if number in self._owners:
                self._engine.cancel(number)

    def _cancel_all(self) -> None:
        for number in self._owners:
            self._engine.cancel(number)

    def _deliver(self, update: TextUpdate) -> None:
        ticket, index = self._owners.get(update.request_id, (None, 0))
        if ticket is None:
            return
        if update.ended_by is not None:
            del self._owners[update.request_id]
            self._finish(ticket, 1)
        ticket.listener(TextChange(index, update))

    def _finish(self, ticket: Ticket, count: int) -> None:
        with self._condition:
            ticket.num_unfinished -= count
            self._unfinished -= count
            if not ticket.num_unfinished:
                self._unfinished_tickets.remove(ticket)

    def _fail(self, error: BaseException) -> None:
        with self._condition:
            self.failure = error
            tickets, self._unfinished_tickets = self._unfinished_tickets, set()
            self._unfinished = 0
        for ticket in tickets:
            ticket.listener(Failed(error))
        self.on_failure()
