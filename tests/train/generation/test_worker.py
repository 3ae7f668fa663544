"""The thread of an engine: requests from many threads, each with its own events in order; limits, cancels, failures."""

import queue
import threading

import pytest

from model.inference.request import Request
from model.inference.sampling import Sampling
from tests.train.generation.engines import FakeEngine
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.generation.text_engine import TextEngine, TextRequest
from train.generation.worker import Accepted, EngineFailedError, EngineWorker, Failed, QueueFullError, Refused


def asked(letter="a", max_tokens=5, **fields):
    sampling = Sampling(max_tokens=max_tokens)
    return TextRequest(request=Request(prompt=(ord(letter),), sampling=sampling, **fields))


@pytest.fixture
def worker():
    """A function that starts a worker on an engine; all are closed at the end."""
    started = []

    def start(engine, capacity=1000):
        started.append(EngineWorker(TextEngine(engine, BytesTokenizer(Bytes())), capacity))
        return started[-1]

    yield start
    for one in started:
        one.close()
        assert not one._thread.is_alive()


class Heard(queue.Queue):
    """A listener that keeps events."""

    def __call__(self, event):
        self.put(event)

    def next(self):
        return self.get(timeout=10)

    def texts(self, count=1):
        """The texts of `count` requests, after all have ended."""
        texts, left = [""] * count, count
        while left:
            event = self.next()
            texts[event.index] += event.update.text
            left -= event.update.ended_by is not None
        return texts


def test_events_come_in_order(worker):
    heard = Heard()
    ticket = worker(FakeEngine()).submit([asked("a"), asked("x", 3)], heard)
    assert isinstance(heard.next(), Accepted)
    assert heard.texts(2) == ["bcdef", "yza"]
    assert ticket.num_unfinished == 0
    assert heard.empty()


def test_many_threads_lose_no_text(worker):
    one, found = worker(FakeEngine(rows=3, per_step=2)), {}

    def ask(letter, number):
        heard = Heard()
        one.submit([asked(letter, 1 + number % 7)], heard)
        assert isinstance(heard.next(), Accepted)
        found[letter, number] = heard.texts()[0]

    letters = "abcdefghij"
    threads = [threading.Thread(target=ask, args=(letters[k % 10], k)) for k in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    assert len(found) == 80
    for (letter, number), text in found.items():
        after = alphabet.index(letter) + 1
        assert text == alphabet[after : after + 1 + number % 7]
    assert one.num_unfinished == 0


def test_the_queue_is_limited(worker):
    one = worker(FakeEngine(seconds=0.01), capacity=3)
    heard = Heard()
    ticket = one.submit([asked(max_tokens=40)] * 2, heard)
    with pytest.raises(QueueFullError, match="2 texts are unfinished, and 2 more exceed the limit of 3"):
        one.submit([asked()] * 2, Heard())
    one.submit([asked(max_tokens=1)], Heard())
    assert isinstance(heard.next(), Accepted)
    one.cancel(ticket)
    ends = []
    while len(ends) < 2:
        ends += filter(None, [heard.next().update.ended_by])
    assert ends == ["cancelled", "cancelled"]
    assert one.num_unfinished <= 1


def test_a_refused_request_takes_the_others_of_its_ticket_along(worker):
    one, heard = worker(FakeEngine(context=3)), Heard()
    too_long = TextRequest(request=Request(prompt=(1, 2, 3, 4)))
    ticket = one.submit([asked(max_tokens=2), too_long], heard)
    event = heard.next()
    assert isinstance(event, Refused)
    assert "4 tokens; 3 fit" in str(event.error)
    assert (ticket.num_unfinished, one.num_unfinished) == (0, 0)
    after = Heard()
    one.submit([asked(max_tokens=2)], after)
    after.next()
    assert after.texts() == ["bc"]
    assert heard.empty()


def test_a_failing_engine_is_told_to_all(worker):
    fake, failed = FakeEngine(seconds=0.01), threading.Event()
    one = worker(fake)
    one.on_failure = failed.set
    heard = [Heard(), Heard()]
    for each in heard:
        one.submit([asked(max_tokens=60)], each)
        assert isinstance(each.next(), Accepted)
    fake.fails = RuntimeError("device lost")
    for each in heard:
        while not isinstance(event := each.next(), Failed):
            pass
        assert event.error is fake.fails
    assert failed.wait(5)
    assert (one.failure, one.num_unfinished) == (fake.fails, 0)
    with pytest.raises(EngineFailedError, match="device lost"):
        one.submit([asked()], Heard())


def test_closing_cancels_what_runs_and_ends_the_thread(worker):
    one, heard = worker(FakeEngine(seconds=0.01)), Heard()
    one.submit([asked(max_tokens=60)], heard)
    assert isinstance(heard.next(), Accepted)
    one.close()
    events = [heard.next() for _ in range(heard.qsize())]
    assert events[-1].update.ended_by == "cancelled"
    with pytest.raises(EngineFailedError, match="the engine has ended"):
        one.submit([asked()], Heard())


def test_a_ticket_cancelled_before_its_turn_never_begins(worker):
    fake = FakeEngine(seconds=0.05)
    one = worker(fake)
    first = Heard()
    one.submit([asked(max_tokens=4)], first)
    first.next()
    ticket = one.submit([asked("x")], Heard())
    ticket.cancelled = True  # as `cancel` does while the worker is in a step
    assert first.texts() == ["bcde"]
    one.close()
    assert [chr(request.prompt[0]) for request in fake.seen] == ["a"]
    assert one.num_unfinished == 0
