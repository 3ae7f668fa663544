"""Windows over a document: each token once, and the windows of transformers' documentation and of lm-eval."""

import pytest

from model.errors import UserError
from train.evaluation.windows import check_window, of_transformers, sliding, windows

T = 8


def test_windows_score_every_input_once_with_all_the_context_they_allow():
    for inputs in range(0, 30):
        for stride in range(1, T + 1):
            scored = []
            for window in windows(inputs, T, stride):
                assert 0 <= window.begin <= window.first_scored < window.stop <= inputs
                assert window.stop - window.begin == min(T, inputs)
                for place in range(window.first_scored, window.stop):
                    scored.append(place)
                    # The least context that a window moving by `stride` leaves, or all tokens before.
                    assert place - window.begin >= min(place, T - stride)
            assert scored == list(range(inputs))


def test_windows_of_a_hand_worked_case():
    def three(*case):
        return [window[:3] for window in windows(*case)]

    assert three(11, 8, 3) == [(0, 0, 8), (3, 8, 11)]
    assert three(12, 8, 3) == [(0, 0, 8), (3, 8, 11), (4, 11, 12)]
    assert three(16, 8, 8) == [(0, 0, 8), (8, 8, 16)]
    assert three(5, 8, 8) == [(0, 0, 5)]
    assert {window.weight for window in windows(16, 8, 3)} == {1.0}


def documented(num_tokens, max_length, stride):
    """The loop of transformers' documentation: for each window its tokens, the scored ones, and its weight."""
    previous_end = 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + max_length, num_tokens)
        num_labels = end - previous_end
        labels = [token if token >= end - num_labels else None for token in range(begin, end)]
        # The model shifts the labels: the first token of the window has no prediction.
        yield range(begin, end), [token for token in labels[1:] if token is not None], num_labels - 1
        previous_end = end
        if end == num_tokens:
            break


def test_windows_of_transformers_are_those_of_its_documented_loop():
    for num_tokens in range(1, 30):
        for stride in range(1, T + 1):
            expected = [window for window in documented(num_tokens, T, stride) if window[1]]
            found = list(of_transformers(num_tokens - 1, T, stride))
            assert len(found) == len(expected)
            for (begin, first, stop, weight), (tokens, scored, labels) in zip(found, expected, strict=True):
                assert (begin, stop + 1) == (tokens.start, tokens.stop)
                assert list(range(first + 1, stop + 1)) == scored
                assert weight * len(scored) == pytest.approx(labels)


def rolling(tokens, prefix, max_length, context):
    """lm-eval's rolling windows: the inputs and the predicted tokens of each."""
    count = max_length - context + 1
    first = min(max_length, len(tokens))
    yield [prefix, *tokens[: first - 1]], tokens[:first]
    done = first
    while done < len(tokens):
        some = min(len(tokens) - done, count)
        end = done + some
        yield tokens[end - max_length - 1 : end - 1], tokens[end - some : end]
        done = end


@pytest.mark.parametrize("context", [1, 3, T])
def test_sliding_windows_after_a_mark_are_lm_evals_rolling_ones(context):
    for size in range(1, 30):
        tokens = list(range(100, 100 + size))
        stream = [0, *tokens]
        found = [
            (stream[w.begin : w.stop], stream[w.first_scored + 1 : w.stop + 1])
            for w in sliding(size, T, T - context + 1)
        ]
        expected = [(inputs[-T:], predicted) for inputs, predicted in rolling(tokens, 0, T, context)]
        assert found == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((8, 0, 8), "stride must be from 1 to the window of 8"),
        ((4, 5, 8), "window of 4 tokens, got 5"),
        ((9, 1, 8), "window must be from 1 to the model's context of 8"),
        ((1, 1, 8, "transformers"), "window must be from 2 to"),
    ],
)
def test_windows_that_cannot_be(values, message):
    check_window(8, 8, 8)
    with pytest.raises(UserError, match=message):
        check_window(*values)
