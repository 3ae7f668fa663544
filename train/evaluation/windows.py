"""Windows over a document: how a text that is longer than the model's context is read, with each token scored once.

Sliding: the first window holds as many inputs as it can and scores all their targets; each later one ends `stride`
inputs later and scores the targets that are new, after the fullest context. With the stride of a whole window and a
mark before the document these are the windows of lm-eval's `loglikelihood_rolling` (there with a context of 1); a
stride of length - c + 1 is its context of c.

Transformers: the windows of the documentation of `transformers` ("Perplexity of fixed-length models"). They begin at
the tokens 0, stride, 2 stride, ... and hold `length` tokens, so one prediction fewer, and the last one is shorter. A
window's first token has no context in it: a token that only begins a window is not scored. That page averages the mean
losses of windows, each weighted by the number of its labels less one, although a window scores all of its labels unless
it begins with one. `Window.weight` is that weight as a factor of each token.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from model.errors import UserError

WindowKind = Literal["sliding", "transformers"]


class Window(NamedTuple):
    """Inputs [begin, stop) of a document; the targets of the inputs from `first_scored` on are scored.

    `weight` multiplies their losses in the mean of the documentation of `transformers`.
    """

    begin: int
    first_scored: int
    stop: int
    weight: float = 1.0


def windows(inputs: int, length: int, stride: int, kind: WindowKind = "sliding") -> Iterator[Window]:
    """Yields the windows over a document of `inputs` inputs, which has one token more."""
    yield from sliding(inputs, length, stride) if kind == "sliding" else of_transformers(inputs, length, stride)


def sliding(inputs: int, length: int, stride: int) -> Iterator[Window]:
    """Yields windows of at most `length` inputs; each scores its last targets, each target once."""
    first_scored, stop = 0, min(length, inputs)
    while first_scored < inputs:
        yield Window(max(0, stop - length), first_scored, stop)
        first_scored, stop = stop, min(stop + stride, inputs)


def of_transformers(inputs: int, length: int, stride: int) -> Iterator[Window]:
    """Yields the windows of the documentation of `transformers`, of at most `length` tokens."""
    tokens, labelled = inputs + 1, 0  # tokens before `labelled` were labels of earlier windows
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        first = max(labelled, begin + 1)  # the first token with a prediction
        if first < end:
            yield Window(begin, first - 1, end - 1, (end - labelled - 1) / (end - first))
        labelled = end
        if end == tokens:
            return


def check_window(length: int, stride: int, context_length: int, kind: WindowKind = "sliding") -> None:
    """Raises UserError for a window or a stride that is out of range."""
    least = 1 if kind == "sliding" else 2  # a window of one token predicts nothing
    if not least <= length <= context_length:
        raise UserError(
            f"the window must be from {least} to the model's context of {context_length} tokens, got {length}"
        )
    if not 1 <= stride <= length:
        raise UserError(f"the stride must be from 1 to the window of {length} tokens, got {stride}")
