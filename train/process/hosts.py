"""Several processes that train one run together: how they begin, agree, and end.

Process 0 is the writer: it alone writes text files, prepares data and prints. `from_writer` runs a function there and
gives everyone its value or its error; `gather` gives everyone a text of each. They go through the key-value store of
jax's coordination service in process 0, not through the devices, so that a wait may take hours. All processes must call
them in the same order, from their main threads. In a process that runs alone they do nothing beyond the call.

    begin(membership(...))     all meet; a UserError names the processes that do not come
    explain_failures()         an error of a collective becomes one that names the lost process
    leave(status)              after a failure, tells the others and ends this process

The watch (train/process/watch.py) ends this process when another has failed.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from model.errors import UserError
from train.process.cluster import Membership
from train.process.roll_call import roll_call
from train.process.watch import HEARTBEAT_SECONDS, PeerLostError, Store, Watch

T = TypeVar("T")

JOIN_SECONDS = 300.0  # the time that processes wait for each other at the beginning
# The outer fences, which jax holds: it ends a process without a word of ours. The watch is earlier.
_JAX_HEARTBEAT_SECONDS, _JAX_SHUTDOWN_SECONDS = HEARTBEAT_SECONDS + 40, 300
SHARED_FOLDER = "all processes train in one folder: give a --run on a file system that all hosts share"
LINGER_SECONDS = 10.0  # the longest time for which process 0 outlives its failure, so that the others read it


class ReportedError(UserError):
    """An error of the writer, which has printed it already."""


@dataclasses.dataclass
class Group:
    """The processes of this run, seen from this one.

    Attributes:
      index: the number of this process.
      count: the number of processes.
      hosts: the name of the host of each.
      store: the key-value store that they share.
      watch: the watch over the others.
      numbers: numbers the calls that all make in the same order.
      gathered: the folder of the last `gather`.
    """

    index: int
    count: int
    hosts: list[str]
    store: Store
    watch: Watch
    numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)
    gathered: str | None = None


_group: Group | None = None


def begin(member: Membership | None, timeout: float = JOIN_SECONDS) -> None:
    """Joins the other processes; call it before anything starts jax's backend. Does nothing for None.

    Raises UserError when processes are missing after `timeout` seconds, with their numbers.
    """
    global _group
    if member is None:
        return
    import jax

    hosts, connections = roll_call(member, timeout)
    # jax's own handler of SIGTERM would take the place of Cairn's; see train/process/agreement.py.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        member.coordinator,
        member.count,
        member.index,
        local_device_ids=member.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(timeout)),
        heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_JAX_SHUTDOWN_SECONDS,
    )
    from jax._src import distributed  # jax has no public access to the client of its coordination service

    store = Store(distributed.global_state.client)
    _group = Group(member.index, member.count, hosts, store, Watch(store, member.index, hosts, connections))
    _group.watch.start()
    _use_barriers_with_timeouts()


def _use_barriers_with_timeouts() -> None:
    """Makes orbax wait at barriers of the coordination service, which end after 5 minutes, not at collectives."""
    import orbax.checkpoint  # noqa: F401  # defines the flag
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True


def joined() -> bool:
    """Whether this process is one of several."""
    return _group is not None


def index() -> int:
    """The number of this process, 0 if it is alone."""
    return 0 if _group is None else _group.index


def count() -> int:
    """The number of processes."""
    return 1 if _group is None else _group.count


def is_writer() -> bool:
    """Whether this process writes the text files of the run."""
    return index() == 0


def group() -> Group | None:
    """The processes that this one belongs to; None if it is alone."""
    return _group


def from_writer(make: Callable[[], T]) -> T:
    """Calls a function in the writer only, and returns its value, of JSON, in every process.

    A UserError of the writer is raised there, and as a ReportedError of the same text in the others. Another error ends
    the writer, and with it the others.
    """
    if _group is None:
        return make()
    key = f"cairn/from_writer/{next(_group.numbers)}"
    if _group.index:
        answer = json.loads(_group.store.wait(key))
        if "error" in answer:
            raise ReportedError(answer["error"])
        value: T = answer["value"]
        return value
    try:
        value = make()
    except UserError as error:
        _group.store.put(key, json.dumps({"error": str(error)}))
        raise
    _group.store.put(key, json.dumps({"value": value}))
    return value


def gather(text: str) -> list[str]:
    """The texts that all processes give, in their order. It is a barrier too: it returns when all have come."""
    if _group is None:
        return [text]
    folder = f"cairn/gather/{next(_group.numbers)}"
    _group.store.put(f"{folder}/{_group.index}", text)
    if _group.index:
        texts: list[str] = json.loads(_group.store.wait(f"{folder}/all"))
        return texts
    texts = [_group.store.wait(f"{folder}/{number}") for number in range(_group.count)]
    _group.store.put(f"{folder}/all", json.dumps(texts))
    if _group.gathered is not None:  # all have come here, so all have read it
        _group.store.delete(_group.gathered)
    _group.gathered = f"{folder}/"
    return texts


def require_same(name: str, text: str, remedy: str) -> None:
    """Raises UserError in every process when they do not all give the same text, with the first that differs."""
    texts = gather(text)
    for number, other in enumerate(texts):
        if other != texts[0]:
            message = f"process {number}{_where(number)} has another {name} than process 0{_where(0)}; {remedy}"
            raise UserError(message) if is_writer() else ReportedError(message)


def _where(number: int) -> str:
    return "" if _group is None else f" on {_group.hosts[number]}"


@contextlib.contextmanager
def explain_failures() -> Iterator[None]:
    """Turns an error of jax in the context into a PeerLostError if another process is gone."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:  # a status that jax does not know, as of Gloo, is a ValueError
        if _group is None or "RESOURCE_EXHAUSTED" in str(error):
            raise
        if (lost := _group.watch.find_lost()) is None:
            raise
        raise PeerLostError(lost) from error


def leave(status: int, failure: str | None = None) -> None:
    """Call it at the end of a command. After a failure it tells the other processes, and ends this one at once.

    The usual end would wait for all of them. Process 0 stays until the others have read the failure, because the store
    goes with it. Does nothing in a process that is alone.

    Args:
      status: the exit status.
      failure: the message of the failure; None after a good end, to which all processes come.
    """
    if _group is None:
        return
    if failure is None:
        _group.watch.end()
        return
    with contextlib.suppress(Exception):  # the store may be gone
        _group.watch.tell("failure", failure)
        _group.store.put(f"cairn/left/{_group.index}", "")
        if is_writer():
            others = set(range(1, _group.count)) - _group.watch.lost
            deadline = time.monotonic() + LINGER_SECONDS
            while time.monotonic() < deadline and others - _group.store.numbers("cairn/left/"):
                time.sleep(0.05)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def printed_by_writer(message: str) -> bool:
    """Whether the writer has failed with the same message, so that this process need not print it again."""
    if _group is None or _group.index == 0:
        return False
    failure = _group.watch.wait_for_failure(2.0)
    return failure is not None and failure.process == 0 and failure.message == message
