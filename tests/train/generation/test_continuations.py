"""Many texts in the order of their prompts, whichever is complete first; one while it is drawn."""

import pytest

from model.inference.request import Request
from model.inference.sampling import Sampling
from tests.train.generation.engines import FakeEngine
from tests.train.serving.servers import BYTES
from train.generation.continuations import Continuation, continue_in_order, continue_one, describe_speed
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
