"""Which tokens are hidden, and the source and the target: the example of the paper, loops, and counts."""

import collections
import math

import numpy as np
import pytest

from train.data.span_corruption.corruption import draw_hidden, hidden_and_spans, longest_text, take_out


def test_the_example_of_the_paper():
    """Figure 2: "for inviting" and "last" are hidden; <X>, <Y>, <Z> are the sentinels."""
    words = "Thank you for inviting me to your party last week .".split()
    hidden = np.array([word in ("for", "inviting", "last") for word in words])
    source, target, final = take_out(np.arange(len(words)), hidden, 99)
    names = dict(enumerate(words)) | {99: "<X>", 98: "<Y>", 97: "<Z>"}
    assert " ".join(names[i] for i in source) == "Thank you <X> me to your party <Y> week ."
    assert " ".join(names[i] for i in [*target, final]) == "<X> for inviting <Y> last <Z>"


def by_a_loop(ids, hidden, first):
    """The source and the target, token by token."""
    source, target, inside = [], [], False
    for token, is_hidden in zip(ids, hidden, strict=True):
        if is_hidden and not inside:
            source.append(first)
            target.append(first)
            first -= 1
        (target if is_hidden else source).append(token)
        inside = is_hidden
    return source, target, first


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_loop_over_tokens(share):
    draw = np.random.default_rng(3)
    for length in (1, 2, 7, 30):
        ids, hidden = draw.integers(0, 50, length), draw.random(length) < share
        source, target, final = take_out(ids, hidden, 99)
        assert ([*source], [*target], final) == by_a_loop(ids, hidden, 99)


def test_all_ways_to_choose_the_lengths_are_alike():
    """7 tokens, 3 of them hidden in 2 spans: 3 ways to cut those that are kept, and 2 to cut the others."""
    assert hidden_and_spans(7, 0.45, 1.5) == (3, 2)
    generator, draws = np.random.default_rng(0), 3000
    found = collections.Counter(
        "".join(map(str, draw_hidden(7, 0.45, 1.5, generator).astype(int))) for _ in range(draws)
    )
    kept, hidden = [(1, 3), (2, 2), (3, 1)], [(1, 2), (2, 1)]
    ways = {"0" * a + "1" * c + "0" * b + "1" * d for a, b in kept for c, d in hidden}
    assert found.keys() == ways
    deviation = math.sqrt(draws / 6 * 5 / 6)
    assert all(abs(count - draws / 6) < 4 * deviation for count in found.values())


@pytest.mark.parametrize("length", [2, 3, 10, 101])
@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 1.0), (0.9, 2.0), (0.15, 50.0)])
def test_as_many_as_said(length, density, mean):
    hidden = draw_hidden(length, density, mean, np.random.default_rng(1))
    spans = np.count_nonzero(np.diff(hidden.astype(int)) == 1)
    assert (hidden.sum(), spans) == hidden_and_spans(length, density, mean)
    assert not hidden[0]
    assert hidden[-1]


def test_a_row_of_one_token_stays_whole():
    assert not draw_hidden(1, 0.5, 1.0, np.random.default_rng(0)).any()
    assert not len(draw_hidden(0, 0.5, 1.0, np.random.default_rng(0)))


def test_lengths_are_those_of_t5():
    """Section 3.1.4 trains on inputs of 512 tokens: 568 of text, of which 85 are hidden in 28 spans, each with a mark."""
    assert longest_text(512, 0.15, 3.0, mark=True) == 568
    assert hidden_and_spans(568, 0.15, 3.0) == (85, 28)


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("mean", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("density", [0.05, 0.15, 0.5, 0.9])
def test_no_longer_text_fits(density, mean, mark):
    def source_length(length):
        hidden, spans = hidden_and_spans(length, density, mean)
        return length - hidden + spans + mark

    for most in range(4, 60):
        length = longest_text(most, density, mean, mark)
        assert source_length(length) <= most < source_length(length + 1)
