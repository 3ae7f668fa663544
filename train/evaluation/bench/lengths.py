"""Length extrapolation: the loss of the same text in windows shorter and longer than those of the training.

All lengths are measured on the same documents, those that fill the longest window. A window moves by half of its
length, so that every token after the first window has at least half a window before it.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from model.errors import UserError
from model.options.tree import check
from model.transformer import abstract_params
from train.evaluation.documents import Document
from train.evaluation.evaluate import Result
from train.run.loading import LoadedRun

DEFAULT_LENGTHS = ("0.5x", "1x", "2x", "4x", "8x")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(x?)")


@dataclasses.dataclass(frozen=True)
class LengthResult:
    """The result in windows of `length` tokens, `ratio` times the trained length."""

    length: int
    ratio: float
    result: Result

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"length": self.length, "ratio": self.ratio} | self.result.as_json()


def trained_length(run: LoadedRun) -> int:
    """The length of the training sequences; for published weights, of which it is unknown, the context."""
    model, data = run.experiment.model, run.experiment.data
    return model.context_length if run.step == 0 else data.sequence_length


def parse_lengths(texts: Sequence[str], trained: int) -> list[int]:
    """Lengths in tokens, increasing, from texts such as "0.5x" (of the trained length) or "2048" (tokens).

    Raises UserError for a text that is no length, and for a length below 2 tokens.
    """
    lengths = []
    for text in texts:
        found = _NUMBER.fullmatch(text.strip())
        if found is None or ("." in found[1] and not found[2]):
            raise UserError(f"--lengths: {text!r} is no length; expected tokens, as in 2048, or a multiple, as in 0.5x")
        length = math.floor(float(found[1]) * trained) if found[2] else int(found[1])
        if length < 2:
            raise UserError(
                f"--lengths: {text} is {length} of the {trained} trained tokens; expected at least 2 tokens"
            )
        lengths.append(length)
    return sorted(set(lengths))


def with_context(run: LoadedRun, length: int) -> LoadedRun:
    """The run with a context of at least `length` tokens.

    Raises UserError when its parameters belong to positions, of which it has no more.
    """
    model = run.experiment.model
    if length <= model.context_length:
        return run
    longer = dataclasses.replace(model, context_length=length)
    if abstract_params(longer) != abstract_params(model):
        raise UserError(
            f"{run.folder} has learned a table of {model.context_length} positions, so a window of {length} tokens is "
            "too long; give shorter --lengths"
        )
    check(longer)
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, model=longer))


def long_enough(documents: Iterable[Document], length: int, begins: bool) -> Iterator[Document]:
    """Yields the documents that fill a window, with the mark before them if they begin after one.

    Raises UserError at the end if there was none.
    """
    longest, none = 0, True
    for document in documents:
        size = len(document.ids) + begins
        longest = max(longest, size)
        if size >= length:
            none = False
            yield document
    if none:
        raise UserError(
            f"no document fills a window of {length:,} tokens: the longest has {longest:,}; give longer text, shorter "
            "--lengths, or --stream to join the documents"
        )


def evaluate_lengths(
    run: LoadedRun,
    documents: Callable[[], Iterable[Document]],
    lengths: Sequence[int],
    evaluate: Callable[[LoadedRun, Iterable[Document], int], Result],
) -> list[LengthResult]:
    """Measures a model in windows of several lengths.

    Args:
      run: the model.
      documents: called for each length; yields the same documents each time.
      lengths: in tokens, increasing.
      evaluate: measures a model on documents in windows of a length.

    Raises:
      UserError: as for `with_context` and `long_enough`.
    """
    longest = with_context(run, lengths[-1])  # refused before the first length is measured
    begins = run.tokenizer.begin_of_document is not None
    found = []
    for length in lengths:
        chosen = long_enough(documents(), lengths[-1], begins)
        model = longest if length > run.experiment.model.context_length else run
        found.append(LengthResult(length, length / trained_length(run), evaluate(model, chosen, length)))
    return found
