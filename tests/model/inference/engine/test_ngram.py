"""Guesses from the text itself, against a search that looks at every place."""

import numpy as np

from model.inference.engine.ngram import NGramProposer
from model.inference.engine.sequence import Sequence
from model.inference.engine.speculation import NGram
from model.inference.request import Request

OPTION = NGram(tokens=5, longest=3, shortest=2)


def text_of(tokens, number=0):
    return Sequence(number, Request(prompt=(1,)), 1, "max_tokens", list(tokens), [[]])


def looked_up(tokens, option, count):
    """The guesses by the definition: the latest earlier place of the longest end of the text that has one."""
    for length in range(option.longest, option.shortest - 1, -1):
        for place in range(len(tokens) - 1, length - 1, -1):
            if length < len(tokens) and tokens[place - length : place] == tokens[-length:]:
                extended = list(tokens)
                for i in range(count):
                    extended.append(extended[place + i])
                return extended[len(tokens) :]
    return []


def test_guesses_are_those_of_a_search_while_a_text_grows():
    draw = np.random.default_rng(0)
    proposer, text = NGramProposer(OPTION), text_of([])
    found = 0
    for _ in range(150):
        text.tokens += draw.integers(0, 3, draw.integers(1, 4)).tolist()
        expected = looked_up(text.tokens, OPTION, 5)
        assert proposer.propose([text], [5]) == [expected]
        found += bool(expected)
    assert found > 100


def test_a_period_goes_on_and_the_longest_match_counts():
    proposer = NGramProposer(OPTION)
    assert proposer.propose([text_of([9, 1, 2, 1, 2]), text_of([4, 5, 6, 7], 1)], [5, 5]) == [[1, 2, 1, 2, 1], []]
    # The last two tokens stood before 8 more lately, and the last three before 7.
    assert proposer.propose([text_of([0, 1, 2, 7, 1, 2, 8, 0, 1, 2], 2)], [1]) == [[7]]
    assert proposer.propose([text_of([1, 2, 1, 2], 3)], [0]) == [[]]


def test_a_text_that_ended_is_forgotten():
    proposer, text = NGramProposer(OPTION), text_of([1, 2, 3, 1, 2])
    proposer.propose([text], [1])
    proposer.forget(text)
    assert proposer._indices == {}
    assert proposer.propose([text_of([5, 1, 2])], [2]) == [[]]  # another text with its number
