"""Many texts in the order of their prompts, whichever is complete first; one while it is drawn."""

import pytest

from model.inference.request import Request
from model.inference.sampling import Sampling
from tests.train.generation.engines import FakeEngine, spelling
from tests.train.serving.servers import BYTES
from train.generation.continuations import (
    Continuation,
    continue_all,
    continue_in_order,
    continue_one,
    describe_speed,
)
from train.generation.text_engine import TextEngine, TextRequest


def asked(letter, max_tokens):
    return TextRequest(request=Request(prompt=(ord(letter),), sampling=Sampling(max_tokens=max_tokens)))


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_texts_come_in_order_and_few_wait_with_the_engine(ahead):
    fake = FakeEngine(rows=2)
    lengths = [9, 1, 2, 7, 1, 1, 3]
    most = 0
    texts = []
    for text in continue_in_order(TextEngine(fake, BYTES), [asked("a", n) for n in lengths], ahead):
        texts.append(text)
        most = max(most, fake.num_unfinished)
    assert [text.text for text in texts] == ["bcdefghij"[:n] for n in lengths]
    assert [text.tokens for text in texts] == lengths
    assert most <= ahead
    assert fake.num_unfinished == 0


def test_an_iterator_that_is_closed_leaves_nothing_behind():
    fake = FakeEngine(rows=4)
    engine = TextEngine(fake, BYTES)
    texts = continue_in_order(engine, [asked("a", 2), *[asked("b", 50)] * 3], ahead=4)
    assert next(texts).text == "bc"
    texts.close()
    engine.step()
    assert fake.num_unfinished == 0


def test_no_requests():
    assert list(continue_in_order(TextEngine(FakeEngine(), BYTES), [], 4)) == []


def test_one_text_comes_in_pieces():
    *pieces, whole = continue_one(TextEngine(FakeEngine(), BYTES), asked("a", 4))
    assert pieces == ["b", "c", "d", "e"]
    assert (whole.text, whole.tokens, whole.ended_by) == ("bcde", 4, "max_tokens")


def test_the_speed_in_words():
    one, two = (Continuation("", tokens, "context", first) for tokens, first in ((30, 0.25), (10, 0.75)))
    assert describe_speed([one], 2.0) == "1 text, 30 tokens in 2.0 s: 15 tokens/s; time to first token 0.25 s"
    assert describe_speed([one, two], 2.0).endswith(
        "2 texts, 40 tokens in 2.0 s: 20 tokens/s; time to first token 0.50 s (median; at most 0.75 s)"
    )
    assert describe_speed([], 0.1) == "0 texts, 0 tokens in 0.1 s"


def test_all_texts_come_with_their_pieces():
    fake, pieces, lengths = FakeEngine(rows=2), {}, [3, 1, 2]
    requests = [asked("a", n) for n in lengths]
    note = lambda number, text: pieces.setdefault(number, []).append(text)  # noqa: E731
    texts = continue_all(TextEngine(fake, BYTES), requests, 3, note)
    assert [text.text for text in texts] == ["bcd", "b", "bc"]
    assert ["".join(pieces[number]) for number in range(3)] == ["bcd", "b", "bc"]
    assert fake.num_unfinished == 0


def test_an_interrupt_leaves_the_texts_until_then():
    """Text 0 waits for the rest of a character, text 2 has not begun."""
    fake, results = FakeEngine(spelling("é..."), rows=2), []
    step = fake.step

    def stops_after_the_first():
        if fake.statistics.steps:
            raise KeyboardInterrupt
        return step()

    fake.step = stops_after_the_first
    requests = [asked("a", 4), asked("b", 1), asked("c", 1)]
    with pytest.raises(KeyboardInterrupt):
        continue_all(TextEngine(fake, BYTES), requests, 3, None, results)
    assert [(text.text, text.ended_by) for text in results] == [("\ufffd", "cancelled"), ("\ufffd", "max_tokens")]
    assert all(text.ends_mid_character for text in results)
