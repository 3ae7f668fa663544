"""The inputs that choose tokens are made once for the same rows, and in each step where a choice needs the text."""

import numpy as np

from model.inference.constraint import ALL
from model.inference.engine.choices import ChoiceMaker
from model.inference.engine.scheduler import Span
from model.inference.engine.sequence import Sequence
from model.inference.request import Request
from model.inference.sampling import Sampling


def span_of(number, **fields):
    request = Request(**dict(prompt=(1, 2, 3)) | fields)
    return Span(Sequence(number, request, 9, "max_tokens", [1, 2, 3], [[]], row=number), 2, 1)


def test_the_same_rows_have_the_same_choices():
    maker, spans = ChoiceMaker(61, [2, 4]), [span_of(0), span_of(1, sampling=Sampling(temperature=0, seed=7))]
    made = maker.of_rows(4, spans)
    assert maker.of_rows(4, [Span(span.sequence, 3, 4) for span in spans]) is made
    assert maker.of_rows(4, spans[::-1]) is not made
    np.testing.assert_array_equal(made.rules["greedy"], [False, True, True, True])
    np.testing.assert_array_equal(made.seed_B, [0, 7, 0, 0])
    assert not np.any(made.bias_BV)
    assert np.all(np.asarray(made.allowed_BW) == ALL)


def test_prompts_have_known_tokens_and_draw_none():
    maker, spans = ChoiceMaker(61, [4]), [Span(span_of(i, num_prompt_logprobs=i).sequence, i, 1) for i in range(2)]
    read, scored, first = (
        maker.of_prompts(4, some, scored=scored) for some, scored in ((spans, False), (spans, True), (spans[:1], True))
    )
    assert read.known_B.tolist() == [-1] * 4
    assert scored.known_B.tolist() == [2, 3, -1, -1]
    assert [(each.wants_logprob, each.wants_likeliest) for each in (read, scored, first)] == [
        (False, False), (True, True), (True, False),
    ]  # fmt: skip
    assert maker.of_rows(4, spans).known_B.tolist() == [-1] * 4


def test_a_penalty_is_counted_in_every_step():
    maker = ChoiceMaker(61, [2])
    span = span_of(0, sampling=Sampling(repetition_penalty=1.5), begin=1, logit_bias={5: 2.0})
    made = maker.of_rows(2, [span])
    assert np.flatnonzero(made.seen_BV[0]).tolist() == [2, 3]
    assert np.flatnonzero(made.bias_BV[0]).tolist() == [5]
    span.sequence.tokens.append(9)
    assert np.flatnonzero(maker.of_rows(2, [Span(span.sequence, 3, 1)]).seen_BV[0]).tolist() == [2, 3, 9]
