"""The roll call before several processes begin: who is there, and who has not come in time.

jax ends a process without a word of its own when a peer does not come. So all processes meet first at the address of
process 0, by plain sockets: each sends its number and the name of its host, and waits. When all are there, process 0
sends everyone the list of hosts. If some have not come in time, it sends everyone their numbers.

The connections stay open: the system closes those of a process that dies, and train/process/watch.py sees it at once.
"""

import json
import selectors
import socket
import time
from typing import Any, NamedTuple

from model.errors import UserError
from train.process.cluster import Membership

_MAX_LINE_BYTES = 1 << 20
_RETRY_SECONDS = 0.1


class Attendance(NamedTuple):
    """The outcome of a roll call.

    Attributes:
      hosts: the names of the hosts of all processes, in order.
      connections: the connections that stay open, by process: process 0 has one to every other, and they to it.
    """

    hosts: list[str]
    connections: dict[int, socket.socket]


def roll_call(member: Membership, timeout: float) -> Attendance:
    """The hosts of all processes; returns when all are there.

    Args:
      member: this process.
      timeout: seconds to wait for the others.

    Raises:
      UserError: when processes are missing after that time, with their numbers; when two have the same number, or
        were given different counts.
    """
    deadline = time.monotonic() + timeout
    answer, connections = (_follow if member.index else _lead)(member, deadline, timeout)
    if "error" in answer:
        for connection in connections.values():
            connection.close()
        raise UserError(answer["error"])
    return Attendance(answer["hosts"], connections)


def missing_message(missing: list[int], member: Membership, timeout: float) -> str:
    """The error for processes that did not come."""
    listed = ", ".join(map(str, missing[:20])) + (f" and {len(missing) - 20} more" if missing[20:] else "")
    noun = "process" if len(missing) == 1 else "processes"
    return (
        f"{noun} {listed} of {member.count} did not come to {member.coordinator} within {timeout:g} s; start all of "
        "them with the same --coordinator and --num_processes, see their logs, and wait longer with --peer_timeout"
    )


_Outcome = tuple[dict[str, Any], dict[int, socket.socket]]  # the answer to all, and the open connections


def _lead(member: Membership, deadline: float, timeout: float) -> _Outcome:
    """Process 0: collects the others, and tells all of them the outcome."""
    port = int(member.coordinator.rpartition(":")[2])
    try:
        listener = _listen(port)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {port} ({error.strerror}); take another port in --coordinator"
        ) from error
    present, hosts = dict[int, socket.socket](), {0: socket.gethostname()}
    answer: dict[str, Any] = {}
    with listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while not answer:
            if len(present) == member.count - 1:
                for index in [index for index, connection in present.items() if _is_closed(connection)]:
                    del present[index], hosts[index]  # it has ended while it waited, and may come again
                if len(present) == member.count - 1:
                    answer = {"hosts": [hosts[index] for index in range(member.count)]}
            elif not selector.select(max(0.0, deadline - time.monotonic())):
                missing = sorted(set(range(member.count)) - hosts.keys())
                answer = {"error": missing_message(missing, member, timeout)}
            else:
                connection, _ = listener.accept()
                greeting = _receive(connection, 5.0)
                if not isinstance(greeting.get("index"), int) or "host" not in greeting:
                    connection.close()  # another program
                elif (problem := _misfit(greeting, member, present, hosts)) is not None:
                    answer = {"error": problem}
                    _send(connection, answer)
                    connection.close()
                else:
                    present[greeting["index"]], hosts[greeting["index"]] = connection, str(greeting["host"])
    for connection in present.values():
        _send(connection, answer)
    return answer, present


def _misfit(
    greeting: dict[str, Any], member: Membership, present: dict[int, socket.socket], hosts: dict[int, str]
) -> str | None:
    """The error for a process that cannot be one of these; None if it can."""
    index, host, count = greeting["index"], greeting["host"], greeting.get("count")
    if count != member.count or not 0 < index < member.count:
        return (
            f"process {index} on {host} was started as one of {count}, process 0 as one of {member.count}; give all "
            "the same --num_processes"
        )
    if index in present and not _is_closed(present[index]):
        return f"two processes are number {index}, on {hosts[index]} and {host}; give each its own --process_id"
    return None


def _follow(member: Membership, deadline: float, timeout: float) -> _Outcome:
    """Another process: goes to process 0 and waits for the outcome, a little longer than process 0 does."""
    host, _, port = member.coordinator.rpartition(":")
    greeting = {"index": member.index, "count": member.count, "host": socket.gethostname()}
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return {"error": missing_message([0], member, timeout)}, {}
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, 10.0))
        except OSError:
            time.sleep(_RETRY_SECONDS)
            continue
        _send(connection, greeting)
        # Process 0 may have started later, and waits for others as long as it was told.
        answer = _receive(connection, timeout + 10.0)
        if "hosts" in answer or "error" in answer:
            return answer, {0: connection}
        connection.close()
        time.sleep(_RETRY_SECONDS)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other end has gone away."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    try:
        connection.setblocking(True)
        connection.settimeout(5.0)
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it has gone away, and the start of jax will find out


def _receive(connection: socket.socket, timeout: float) -> dict[str, Any]:
    """One line of JSON; an empty dictionary for anything else."""
    data, deadline = b"", time.monotonic() + timeout
    try:
        while not data.endswith(b"\n") and len(data) < _MAX_LINE_BYTES:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            received = connection.recv(1 << 16)
            if not received:
                return {}
            data += received
        message = json.loads(data)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
