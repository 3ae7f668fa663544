"""Texts over an engine of ids: the same text however tokens come, stop strings exact, tokens beside their characters."""

import itertools

import pytest

from model.errors import UserError
from model.inference.request import Request
from model.inference.sampling import Sampling
from tests.train.generation.engines import FakeEngine, spelling
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.generation.text_engine import TextEngine, TextRequest

BYTES = BytesTokenizer(Bytes())
TEXT = "aé漢🙂 end"


def asked(max_tokens=40, stop_strings=(), **fields):
    sampling = Sampling(max_tokens=max_tokens)
    request = Request(prompt=(97,), sampling=sampling, num_logprobs=0, end=256, **fields)
    return TextRequest(request=request, stop_strings=stop_strings)


def updates_of(engine, number):
    found = []
    while engine.num_unfinished:
        found += [update for update in engine.step() if update.request_id == number]
    return found


def whole(rule, request, per_step=1):
    engine = TextEngine(FakeEngine(rule, per_step=per_step), BYTES)
    updates = updates_of(engine, engine.submit(request))
    assert [update.ended_by is not None for update in updates] == [False] * (len(updates) - 1) + [True]
    tokens = [token for update in updates for token in update.tokens]
    return "".join(update.text for update in updates), tokens, updates[-1]


@pytest.mark.parametrize("per_step", [1, 3, 50])
def test_a_text_is_the_same_however_many_tokens_a_step_brings(per_step):
    text, tokens, last = whole(spelling(TEXT, end=256), asked(), per_step)
    assert (text, last.ended_by, last.num_tokens) == (TEXT, "end_of_document", len(TEXT.encode()) + 1)
    assert [token.score.token for token in tokens] == [*TEXT.encode(), 256]
    # The bytes of a character begin where it begins.
    starts = [len(TEXT.encode()[:k].decode(errors="ignore")) for k in range(len(TEXT.encode()))]
    assert [token.offset for token in tokens] == [*starts, len(TEXT)]


@pytest.mark.parametrize(("per_step", "stop"), list(itertools.product([1, 4], ["漢", "🙂 e", "nd", " "])))
def test_a_stop_string_cuts_text_and_tokens_exactly(per_step, stop):
    text, tokens, last = whole(spelling(TEXT + " and more"), asked(stop_strings=("@", stop)), per_step)
    assert (text, last.ended_by) == (TEXT[: TEXT.index(stop)], "stop_string")
    assert bytes(token.score.token for token in tokens).decode() == text
    assert last.num_tokens == len(TEXT[: TEXT.index(stop) + len(stop)].encode())


def test_the_engine_stops_after_a_stop_string():
    fake = FakeEngine(spelling("abcdefgh" * 9))
    engine = TextEngine(fake, BYTES)
    number = engine.submit(asked(stop_strings=("c",)))
    assert updates_of(engine, number)[-1].ended_by == "stop_string"
    assert fake.statistics.steps == 4  # a, b, c, and the step that ends it
    engine.cancel(number)
    engine.cancel(99)
    assert engine.step() == []


def test_a_limit_ends_a_text_and_shows_half_a_character():
    text, tokens, last = whole(spelling("a漢"), asked(max_tokens=3))
    assert (text, last.ended_by, len(tokens)) == ("a\ufffd", "max_tokens", 3)


def test_a_stop_token_is_no_part_of_the_text():
    text, tokens, last = whole(spelling("ab!c"), asked(stop_tokens=(ord("!"),)))
    assert (text, last.ended_by, len(tokens)) == ("ab", "stop_token", 3)


def test_text_that_may_begin_a_stop_string_waits_with_its_tokens():
    engine = TextEngine(FakeEngine(spelling("xa-b-")), BYTES)
    updates = updates_of(engine, engine.submit(asked(max_tokens=5, stop_strings=("a-c",))))
    assert [update.text for update in updates] == ["x", "", "", "a-b", "-"]
    assert [len(update.tokens) for update in updates] == [1, 0, 0, 3, 1]


def test_the_scores_of_the_prompt_come_once():
    engine = TextEngine(FakeEngine(), BYTES)
    request = Request(prompt=(97, 98, 99), sampling=Sampling(max_tokens=3), num_prompt_logprobs=0)
    updates = updates_of(engine, engine.submit(TextRequest(request=request)))
    assert [[score.token for score in update.prompt or ()] for update in updates] == [[98, 99], [], []]


def test_cancelling_ends_a_text_and_leaves_the_others():
    engine = TextEngine(FakeEngine(), BYTES)
    first, second = engine.submit(asked()), engine.submit(asked(max_tokens=4))
    engine.step()
    engine.cancel(first)
    updates = [update for _ in range(3) for update in engine.step()]
    assert [update.ended_by for update in updates if update.request_id == first] == ["cancelled"]
    assert [update.ended_by for update in updates if update.request_id == second] == [None, None, "max_tokens"]


def test_refusals():
    engine = TextEngine(FakeEngine(context=2), BYTES)
    with pytest.raises(UserError, match="stop_strings has an empty string; expected at least one character in each"):
        engine.submit(asked(stop_strings=("a", "")))
    with pytest.raises(UserError, match="the prompt has 3 tokens; 2 fit"):
        engine.submit(TextRequest(request=Request(prompt=(1, 2, 3))))
    assert engine.num_unfinished == 0
