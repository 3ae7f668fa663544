"""The watch: failures end the others, lost processes are named, and signs of life are missed when they stop."""

import json
import socket
import time

import pytest

from tests.train.process.memory_store import groups
from train.process import watch
from train.process.watch import Failure, PeerLostError, Store, Watch


@pytest.fixture
def ends(monkeypatch):
    """The messages with which threads would have ended their process."""
    messages = []
    monkeypatch.setattr(watch, "_end", messages.append)
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.2)
    return messages


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_failure_reaches_all_others_and_ends_them(ends):
    made = groups(3)
    made[1].watch.tell("failure", "disk full")
    assert made[0].watch.wait_for_failure(20) == Failure(1, "disk full")
    wait_for(lambda: len(ends) == 2)  # after the time in which the main threads could have ended by themselves
    assert ends == ["process 1 of 3 on host1 has failed: disk full"] * 2
    assert made[2].watch.lost == {1}
    made[0].watch.end()


def test_after_a_good_end_nothing_is_watched(ends):
    made = groups(2)
    made[0].watch.end()
    made[1].watch.end()
    assert not any(group.watch._thread.is_alive() for group in made)
    assert ends == []


def test_a_process_that_does_not_answer_is_named(ends, monkeypatch):
    monkeypatch.setattr(watch, "_ROLL_SECONDS", 0.5)
    made = groups(3, started=[0, 1])
    assert made[0].watch.find_lost().startswith("process 2 of 3 on host2 has ended or does not answer; see its log")
    assert made[0].watch.lost == {2}
    made[0].watch.end()


def test_all_answer(ends):
    made = groups(3)
    assert made[1].watch.find_lost() is None
    made[0].watch.end()


def test_no_sign_of_life(ends, monkeypatch):
    monkeypatch.setattr(watch, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(watch, "_SLICE_SECONDS", 0.05)
    made = groups(3, started=[0, 1])
    made[0].store.put("cairn/beat/2", "1")  # it lived, once
    assert made[1].watch.wait_for_failure(20) == Failure(2, "")
    wait_for(lambda: len(ends) == 2)
    assert ends[0].startswith("process 2 of 3 on host2 has ended or does not answer")
    made[0].watch.end()


def test_a_connection_that_closes(ends):
    """The death of a process; one that has told its failure before is not reported again."""
    ours, theirs = socket.socketpair()
    first, second = groups(2, started=[1])
    watching = Watch(first.store, 0, first.hosts, {1: ours})
    watching.start()
    theirs.close()
    assert watching.wait_for_failure(20) == Failure(1, "")
    assert second.watch.wait_for_failure(0.3) is None  # its own
    wait_for(lambda: len(ends) == 1)
    watching.end()


def test_the_connection_to_process_0_closes(ends):
    ours, theirs = socket.socketpair()
    first, _ = groups(2, started=[])
    told = []
    watching = Watch(first.store, 1, first.hosts, {0: ours})
    watching.on_end = told.append
    watching.start()
    theirs.close()
    wait_for(
        lambda: (
            ends
            == told
            == [
                "process 0, where the processes meet, has ended; see its log, and start all "
                "processes again: the run continues from its last checkpoint"
            ]
        )
    )
    watching.tell("end")
    watching.end()


class Client:
    """The client of a coordination service, of which the last call fails."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        def call(*arguments, **options):
            raise RuntimeError(self.error)

        return call


def test_a_store_without_its_process():
    gone = Store(Client("UNAVAILABLE: Socket closed"))
    for act in (lambda: gone.put("a", "b"), lambda: gone.wait("a"), lambda: gone.read_folder("a/")):
        with pytest.raises(PeerLostError, match="process 0, where the processes meet, does not answer"):
            act()
    assert Store(Client("DEADLINE_EXCEEDED: GetKeyValue() timed out")).get("a", 0.1) is None


def test_events_are_json(ends):
    made = groups(1)
    made[0].watch.tell("stop", "SIGTERM in process 0")
    event = json.loads(made[0].store.wait("cairn/event/1"))
    assert event == {"kind": "stop", "process": 0, "message": "SIGTERM in process 0"}
    made[0].watch.end()
