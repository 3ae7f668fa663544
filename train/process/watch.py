"""The watch: threads in each of several processes, which learn at once when one of them fails or wants to stop.

One thread waits for events, which every process can add to a list in the store of the coordination service. Another
watches the connections of the roll call, which the system closes when a process dies. A machine that disappears closes
nothing: so every process gives a sign of life, and process 0 reports one that gave none for HEARTBEAT_SECONDS.

When another process has failed, the main thread has GRACE_SECONDS to notice it and to clean up (a collective may fail,
or hang); then a thread ends the process. So no process waits for ever for a lost one.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from model.errors import UserError

HEARTBEAT_SECONDS = 60
GRACE_SECONDS = 5.0
_SLICE_SECONDS = 5.0  # between two signs of life
_TOLD_SECONDS = 0.5  # the time in which a failure becomes known that was told before the connection closed
_ROLL_SECONDS = 3.0  # the time in which the thread of a living process answers
EXIT_PEER_LOST = os.EX_UNAVAILABLE


class PeerLostError(UserError):
    """Another process of the run has failed or is gone."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """The failure of a process: its number, and its message; an empty message if it gave no sign of life."""

    process: int
    message: str


class Store:
    """The key-value store of jax's coordination service, in process 0.

    Every method raises PeerLostError when process 0 is gone.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def put(self, key: str, value: str) -> None:
        """Sets the value of a key."""
        with _converted():
            self._client.key_value_set(key, value, allow_overwrite=True)

    def get(self, key: str, seconds: float) -> str | None:
        """The value of a key, waiting for it; None if it has none after so many seconds."""
        with _converted():
            try:
                value: str = self._client.blocking_key_value_get(key, int(1000 * seconds))
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error) or "NOT_FOUND" in str(error):
                    return None
                raise
            return value

    def wait(self, key: str) -> str:
        """The value of a key, as soon as it has one."""
        while (value := self.get(key, _SLICE_SECONDS)) is None:  # Python handles signals between two slices
            pass
        return value

    def delete(self, folder: str) -> None:
        """Removes all keys of a folder, which ends with a slash."""
        with _converted():
            self._client.key_value_delete(folder)

    def next_number(self, key: str) -> int:
        """1, 2, 3, ...: every call in any process gets another number."""
        with _converted():
            number: int = self._client.key_value_increment(key, 1)
            return number

    def read_folder(self, folder: str) -> dict[int, str]:
        """The values of the keys FOLDER0, FOLDER1, ...; the folder ends with a slash."""
        with _converted():
            return {int(key.rpartition("/")[2]): value for key, value in self._client.key_value_dir_get(folder)}

    def numbers(self, folder: str) -> set[int]:
        """The numbers N of the keys FOLDERN that have a value."""
        return set(self.read_folder(folder))


@contextlib.contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            raise
        raise PeerLostError(_gone("process 0, where the processes meet, does not answer")) from error


def _gone(subject: str) -> str:
    return f"{subject}; see its log, and start all processes again: the run continues from its last checkpoint"


class Watch:
    """See the module.

    Attributes:
      lost: the numbers of the processes that are known to be gone.
      on_end: called with the message before a thread ends this process.
      on_stacks: called, in a thread, when another process stands still; writes the stacks of this one.
    """

    def __init__(
        self, store: Store, index: int, hosts: list[str], connections: Mapping[int, socket.socket] | None = None
    ) -> None:
        """Args: the store; the number of this process; the hosts of all; the connections of the roll call."""
        self.lost: set[int] = set()
        self.on_end: Callable[[str], None] | None = None
        self.on_stop: Callable[[str], None] | None = None
        self.on_stacks: Callable[[], None] | None = None
        self._store, self._index, self._hosts = store, index, hosts
        self._failure: Failure | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._beats: dict[int, tuple[str, float]] = {}
        self._stop: str | None = None
        self._connections = dict(connections or {})
        self._thread = threading.Thread(target=self._watch, name="watch-events", daemon=True)

    def start(self) -> None:
        """Starts the threads."""
        self._thread.start()
        if self._connections:
            threading.Thread(target=self._watch_connections, name="watch-connections", daemon=True).start()

    def tell(self, kind: str, message: str = "") -> None:
        """Adds an event, which the threads of all processes read."""
        number = self._store.next_number("cairn/events")
        event = {"kind": kind, "process": self._index, "message": message}
        self._store.put(f"cairn/event/{number}", json.dumps(event))

    def end(self) -> None:
        """Ends the threads, after a good end of the work. Process 0 ends those of all."""
        if self._index == 0:
            with contextlib.suppress(PeerLostError):
                self.tell("end")
        self._thread.join(_SLICE_SECONDS * 4)

    def when_stopping(self, act: Callable[[str], None]) -> None:
        """Calls a function, in a thread, with the reason for which a process wants to stop; also an earlier one."""
        with self._changed:
            self.on_stop = act
            reason = self._stop
        if reason is not None:
            threading.Thread(target=act, args=(reason,), daemon=True).start()

    def wait_for_failure(self, seconds: float) -> Failure | None:
        """The first failure of another process; None if none is known after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, seconds)
            return self._failure

    def find_lost(self) -> str | None:
        """The error message for a process that has failed or is gone; None when all answer.

        Asks the threads of all processes to answer, and waits for them.
        """
        try:
            number = self._store.next_number("cairn/rolls")
            self.tell("roll", str(number))
            deadline = time.monotonic() + _ROLL_SECONDS
            while time.monotonic() < deadline:
                missing = set(range(len(self._hosts))) - self._store.numbers(f"cairn/roll/{number}/")
                if self._failure is not None or not missing:
                    break
                time.sleep(0.05)
        except PeerLostError as error:
            self.lost.add(0)
            return str(error)
        if self._failure is not None:
            return self._describe(self._failure)
        if not missing:
            return None
        self.lost |= missing
        return self._describe(Failure(min(missing), ""))

    def _describe(self, failure: Failure) -> str:
        where = f"process {failure.process} of {len(self._hosts)} on {self._hosts[failure.process]}"
        if failure.message:
            return f"{where} has failed: {failure.message}"
        return _gone(f"{where} has ended or does not answer")

    # ------------------------------------------------------------------------------------------------ the thread

    def _watch(self) -> None:
        try:
            for number in itertools.count(1):
                while (text := self._store.get(f"cairn/event/{number}", _SLICE_SECONDS)) is None:
                    self._give_sign_of_life()
                if self._handle(json.loads(text)):
                    self._ended = True
                    return
        except PeerLostError as error:
            if not sys.is_finalizing() and threading.main_thread().is_alive():
                self.lost.add(0)
                self._end(str(error))

    def _handle(self, event: dict[str, Any]) -> bool:
        """Acts on an event; returns whether it was the last."""
        if event["kind"] == "roll":
            self._store.put(f"cairn/roll/{event['message']}/{self._index}", "")
        elif event["kind"] == "stop":
            with self._changed:
                known, self._stop = self._stop, self._stop or event["message"]
                act = self.on_stop
            if known is None and act is not None:
                threading.Thread(target=act, args=(event["message"],), daemon=True).start()
        elif event["kind"] == "stacks" and event["process"] != self._index and self.on_stacks is not None:
            threading.Thread(target=self.on_stacks, daemon=True).start()
        elif event["kind"] == "failure":
            self._fail(Failure(event["process"], event["message"]))
        return bool(event["kind"] == "end")

    def _fail(self, failure: Failure) -> None:
        if failure.process == self._index:
            return
        with self._changed:
            if self._failure is not None:
                return
            self._failure = failure
            self.lost.add(failure.process)
            self._changed.notify_all()
        timer = threading.Timer(GRACE_SECONDS, self._end, [self._describe(failure)])
        timer.daemon = True
        timer.start()

    def _end(self, message: str) -> None:
        """Ends this process, wherever its main thread waits."""
        if self._ended:
            return
        if self.on_end is not None:
            with contextlib.suppress(Exception):
                self.on_end(message)
        _end(message)

    def _watch_connections(self) -> None:
        """Reports a process whose connection closes; one that has failed has told so before."""
        with selectors.DefaultSelector() as selector:
            for process, connection in self._connections.items():
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, process)
            while selector.get_map():
                for key, _ in selector.select():
                    with contextlib.suppress(BlockingIOError, ConnectionError):
                        if key.fileobj.recv(1):  # type: ignore[union-attr]
                            continue
                    selector.unregister(key.fileobj)
                    # Process 0 goes last after a failure. After its death jax's own thread would end this process.
                    if not self._ended and self.wait_for_failure(_TOLD_SECONDS if key.data else 0.0) is None:
                        self._report_lost(key.data)

    def _report_lost(self, process: int) -> None:
        if process == 0:  # and the store with it
            self.lost.add(0)
            self._end(_gone("process 0, where the processes meet, has ended"))
            return
        with contextlib.suppress(PeerLostError):
            number = self._store.next_number("cairn/events")
            self._store.put(f"cairn/event/{number}", json.dumps({"kind": "failure", "process": process, "message": ""}))

    def _give_sign_of_life(self) -> None:
        now = time.monotonic()
        self._store.put(f"cairn/beat/{self._index}", str(now))
        if self._index:
            return
        for process, beat in self._store.read_folder("cairn/beat/").items():
            earlier, since = self._beats.get(process, ("", now))
            self._beats[process] = (beat, now if beat != earlier else since)
            if process and now - self._beats[process][1] > HEARTBEAT_SECONDS and process not in self.lost:
                self.lost.add(process)
                self._report_lost(process)


def _end(message: str) -> None:
    """Prints an error and ends this process, wherever its main thread waits."""
    with contextlib.suppress(Exception):
        os.write(2, f"error: {message}\n".encode(errors="backslashreplace"))
    os._exit(EXIT_PEER_LOST)
