"""One writer, one text of each, and errors that reach all: by threads as processes; the real ones are next door."""

import concurrent.futures
import json
import os
import threading
import time

import pytest

from model.errors import UserError
from tests.train.process.memory_store import groups
from train.process import hosts
from train.process.hosts import ReportedError
from train.process.watch import Failure, PeerLostError


@pytest.fixture
def together(monkeypatch):
    """together(count, function): the results of a function that every process calls, errors included, in order."""
    own = threading.local()

    class Current:  # `hosts._group` of the thread that asks
        def __getattr__(self, name):
            return getattr(own.group, name)

    monkeypatch.setattr(hosts, "_group", Current())
    monkeypatch.setattr("train.process.watch._end", lambda message: None)

    def call(count, function):
        made = groups(count)

        def one(group):
            own.group = group
            try:
                return function()
            except Exception as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(count) as threads:
            results = list(threads.map(one, made))
        for group in made:
            group.watch.end()
        return results, made

    return call


def test_alone_nothing_happens():
    assert (hosts.joined(), hosts.is_writer(), hosts.index(), hosts.count()) == (False, True, 0, 1)
    value = object()
    assert hosts.from_writer(lambda: value) is value
    assert hosts.gather("a") == ["a"]
    hosts.require_same("experiment", "a", "")
    hosts.begin(None)
    hosts.leave(2, "an error")  # ends nothing
    assert not hosts.printed_by_writer("an error")
    with pytest.raises(RuntimeError, match="^Gloo"), hosts.explain_failures():
        raise RuntimeError("Gloo all-reduce failed")


def test_the_writer_alone_calls_and_all_have_the_value(together):
    called = []

    def act():
        first = hosts.from_writer(lambda: called.append(hosts.index()) or {"loss": float("inf")})
        return first, hosts.from_writer(lambda: [1, "two"])

    results, _ = together(3, act)
    assert results == [({"loss": float("inf")}, [1, "two"])] * 3
    assert called == [0]


def test_an_error_of_the_writer_reaches_all(together):
    def act():
        def fail():
            raise UserError("the disk is full")

        hosts.from_writer(fail)

    results, _ = together(3, act)
    assert [str(error) for error in results] == ["the disk is full"] * 3
    assert [isinstance(error, ReportedError) for error in results] == [False, True, True]


def test_texts_of_all_and_those_before_are_forgotten(together):
    def act():
        return [hosts.gather(f"{round} of {hosts.index()}") for round in range(3)]

    results, made = together(3, act)
    assert results == [[[f"{round} of {index}" for index in range(3)] for round in range(3)]] * 3
    assert {key.split("/")[2] for key in made[0].store.values if key.startswith("cairn/gather/")} == {"2"}


def test_what_is_not_the_same_is_named(together):
    results, _ = together(3, lambda: hosts.require_same("experiment", "ab"[hosts.index() == 1], "give all the same"))
    expected = "process 1 on host1 has another experiment than process 0 on host0; give all the same"
    assert [str(error) for error in results] == [expected] * 3


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_an_error_of_a_collective_names_the_lost_process(kind, together):
    def act():
        if hosts.index() == 1:
            hosts.group().watch.tell("failure", "out of disk")
            return None
        hosts.group().watch.wait_for_failure(20)
        with hosts.explain_failures():
            raise kind("UNKNOWN: Gloo AllGather failed: Connection reset by peer")

    (error, _), _ = together(2, act)
    assert isinstance(error, PeerLostError)
    assert str(error) == "process 1 of 2 on host1 has failed: out of disk"


def test_a_mistake_of_the_user_asks_nobody(together):
    def act():
        began = time.monotonic()
        with pytest.raises(UserError, match="no such field"), hosts.explain_failures():
            raise UserError("no such field")
        return time.monotonic() - began

    assert max(together(2, act)[0]) < 1


def test_an_error_without_a_lost_process_stays(together):
    def act():
        with hosts.explain_failures():
            raise RuntimeError("INTERNAL: a kernel failed" if hosts.index() else "RESOURCE_EXHAUSTED: memory")

    results, _ = together(2, act)
    assert [str(error)[:8] for error in results] == ["RESOURCE", "INTERNAL"]


def test_leaving_after_a_failure(together, monkeypatch):
    """The others hear the message; process 0 stays until they have left too."""
    left, order = [], threading.Lock()

    def exit(status):
        with order:
            left.append((hosts.index(), status))

    monkeypatch.setattr(os, "_exit", exit)

    def act():
        if hosts.index():
            assert hosts.group().watch.wait_for_failure(20) == Failure(0, "the disk is full")
            assert hosts.printed_by_writer("the disk is full")
            assert not hosts.printed_by_writer("another error")
        hosts.leave(2, "the disk is full")

    results, made = together(3, act)
    assert results == [None] * 3
    assert left[-1] == (0, 2)
    assert sorted(left) == [(0, 2), (1, 2), (2, 2)]
    assert json.loads(made[0].store.values["cairn/event/1"])["kind"] == "failure"


def test_leaving_after_a_good_end(together, monkeypatch):
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("ended"))
    _, made = together(2, lambda: hosts.leave(75))
    assert not any(group.watch._thread.is_alive() for group in made)
