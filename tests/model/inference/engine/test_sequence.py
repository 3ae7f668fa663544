"""A request on its way: why it ends, the digests of its pages, and which scores it still needs."""

import zlib

import numpy as np
import pytest

from model.inference.engine.sequence import Sequence
from model.inference.request import Request, TokenScore


def sequence_of(**fields):
    request = Request(prompt=(1, 2, 3), end=9, stop_tokens=(7, 8), **fields)
    return Sequence(0, request, 2, "context", list(request.prompt), [[]])


@pytest.mark.parametrize(("token", "reason"), [(9, "end_mark"), (8, "stop_token"), (5, None)])
def test_a_token_ends_a_text(token, reason):
    text = sequence_of()
    text.add(TokenScore(token))
    assert text.ended_by == reason
    assert text.tokens == [1, 2, 3, token]


def test_the_budget_ends_a_text():
    text = sequence_of()
    text.add(TokenScore(5))
    text.add(TokenScore(5))
    assert text.num_new == 2
    assert text.ended_by == "context"


def test_the_last_token_is_read_by_the_step_that_chooses_the_next():
    text = sequence_of(num_prompt_logprobs=0)
    assert text.num_to_read == 2
    assert text.next_score == 1
    text.scores = [TokenScore(2), TokenScore(3)]
    assert text.next_score is None
    assert sequence_of().next_score is None
    assert sequence_of(num_prompt_logprobs=0, first_prompt_logprob=2).next_score == 2
    assert sequence_of(num_prompt_logprobs=0, first_prompt_logprob=3).next_score is None


def test_proposed_tokens_follow_the_known():
    text = sequence_of()
    text.proposed = [4, 5]
    parts = [text.known_or_proposed(first, end) for first, end in ((0, 2), (2, 4), (3, 5), (4, 5))]
    assert parts == [[1, 2], [3, 4], [4, 5], [5]]


def test_draws_depend_on_the_prompt_as_in_generate():
    assert sequence_of().prompt_hash == zlib.crc32(np.array([1, 2, 3], np.int32).tobytes())


def test_draws_and_pages_depend_on_the_source():
    one, other, none = sequence_of(source=(5, 6)), sequence_of(source=(5, 7)), sequence_of()
    assert one.prompt_hash == zlib.crc32(np.array([5, 6, 2, 3], np.int32).tobytes())
    assert len({each.digest(0, 2) for each in (one, other, none)}) == 3
    assert one.digest(0, 2) == sequence_of(source=(5, 6)).digest(0, 2)
    assert none.source_read
    assert not one.source_read


def test_digests_follow_the_tokens():
    one, other = sequence_of(), sequence_of()
    one.tokens += [4, 5, 6]
    other.tokens += [4, 5, 0]
    assert one.digest(0, 2) == other.digest(0, 2)
    assert one.digest(1, 2) == other.digest(1, 2)
    assert one.digest(2, 2) != other.digest(2, 2)
