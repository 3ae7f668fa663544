"""Threads that take turns."""

import threading

import pytest

from train.joint.turns import Turn, take_turns


def deep(turn, number, depth=3):
    """Asks from within calls."""
    return deep(turn, number, depth - 1) if depth else turn.ask(number)


def test_one_runs_at_a_time_and_all_wait_before_one_is_served():
    running, seen = [], []

    def work(turn):
        got = []
        for number in range(3 if turn.name == "a" else 5):
            running.append(turn.name)
            assert len(running) == 1
            running.pop()
            got.append(deep(turn, number))
        return got

    def serve(waiting):
        assert not running
        seen.append([(turn.name, turn.request) for turn in waiting])
        for turn in waiting:
            turn.answer((turn.name, turn.request))

    turns = [Turn("a", work), Turn("b", work)]
    take_turns(turns, serve)
    assert seen == [*([("a", n), ("b", n)] for n in range(3)), [("b", 3)], [("b", 4)]]
    assert [turn.result for turn in turns] == [[("a", n) for n in range(3)], [("b", n) for n in range(5)]]


def test_one_that_is_not_served_keeps_waiting():
    order = []

    def serve(waiting):
        turn = min(waiting, key=lambda turn: turn.name)
        order.append(turn.name)
        turn.answer(None)

    take_turns([Turn(name, lambda turn: [turn.ask(n) for n in (1, 2)]) for name in "ba"], serve)
    assert order == ["a", "a", "b", "b"]


def test_an_error_ends_its_own_thread_alone():
    def work(turn):
        turn.ask(1)
        if turn.name == "bad":
            raise ValueError("diverged")
        return turn.ask(2)

    turns = [Turn("bad", work), Turn("good", work)]
    take_turns(turns, lambda waiting: [turn.answer(turn.request) for turn in waiting])
    assert str(turns[0].error) == "diverged"
    assert (turns[1].result, turns[1].error) == (2, None)


def test_an_answer_may_be_an_error():
    def work(turn):
        with pytest.raises(MemoryError):
            turn.ask(1)
        return turn.ask(2)

    turn = Turn("one", work)
    take_turns([turn], lambda waiting: turn.fail(MemoryError()) if turn.request == 1 else turn.answer("fine"))
    assert turn.result == "fine"


def test_all_end_when_the_caller_is_interrupted():
    closed = []

    def work(turn):
        try:
            turn.ask(1)
        finally:
            closed.append(turn.name)

    def serve(waiting):
        raise KeyboardInterrupt

    turns = [Turn("a", work), Turn("b", work)]
    with pytest.raises(KeyboardInterrupt):
        take_turns(turns, serve)
    assert closed == ["a", "b"]
    assert all(isinstance(turn.error, KeyboardInterrupt) for turn in turns)
    assert not [thread for thread in threading.enumerate() if thread.name in ("a", "b")]
