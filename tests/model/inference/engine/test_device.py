"""The device's side: parts of texts in the rows of programs."""

import functools

import pytest

from model.inference.engine.scheduler import Span
from model.inference.engine.sequence import Sequence
from model.inference.request import Request
from tests.model.inference.engine.serving import engine_of, serve


@functools.cache
def engine(name):
    return engine_of(name, rows=2, tokens_per_step=8)[0]


def text_of(number):
    return Sequence(number, Request(prompt=(1, 2)), 1, "max_tokens", list(range(20)), [[]], row=number)


def test_parts_of_one_text_fill_rows_unless_a_state_goes_from_one_to_the_next():
    spans = [Span(text_of(0), 2, 9), Span(text_of(1), 0, 3)]
    calls = [[(part.sequence.request_id, part.first, part.count) for part in call] for call in in_rows("dense", spans)]
    assert calls == [[(0, 2, 4), (0, 6, 4)], [(0, 10, 1), (1, 0, 3)]]
    calls = [[(part.sequence.request_id, part.first, part.count) for part in call] for call in in_rows("GRU", spans)]
    assert calls == [[(0, 2, 4), (1, 0, 3)], [(0, 6, 4)], [(0, 10, 1)]]


def in_rows(name, spans):
    return engine(name)._device._in_rows(spans)


@pytest.mark.parametrize("count", [1, 3])
def test_more_texts_than_a_program_has_rows_are_decoded_in_turn(count):
    made = engine("dense")
    made.compile()
    requests = [Request(prompt=(1 + i, 2)) for i in range(count)]
    sizes, made._device._decode_sizes = made._device._decode_sizes, [2]
    answers = serve(made, requests)
    made._device._decode_sizes = sizes
    assert all(len(answer.tokens) == 39 for answer in answers)
