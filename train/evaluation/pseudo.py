"""Pseudo-perplexity: the loss of every token given all other tokens of its window, for models that fill in masks.

Salazar et al. 2020, "Masked Language Model Scoring", equations 1 and 3: the pseudo-log-likelihood of a text is the sum
over its tokens of log p(token | all others), where the token alone is replaced by the mask; the pseudo-perplexity of a
corpus is exp(-sum / number of tokens). It is no probability of the text, and comparable between such models alone. A
window of T tokens takes T forward passes.

A text that is longer than a window is read in windows that overlap by `window - stride` tokens, of which each scores
the middle, so that its tokens have at least half of the overlap on both sides; the first and the last window score the
ends too. Every token is scored once. A window has the mark that begins documents before its tokens, and the mark
that ends them after them, where the model was trained with these.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.transformer import unembedding
from model.vocabulary.cross_entropy import nll
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.details import TokenScores
from train.evaluation.document_scores import NOTHING_KEPT, Collector, DocumentScore, Kept
from train.evaluation.documents import Document
from train.evaluation.windows import Window, check_window
from train.experiment import Experiment
from train.objectives.masked import MaskedTokens
from train.objectives.next_token import stream_of_batch
from train.parallel import feed
from train.parallel.table import MeshLayout, replicated

NO_PREFIX = PrefixSize(0, 0)
# The tokens of a batch on a device, when the user gives no batch size; see train/evaluation/perplexity.py.
TOKENS_PER_DEVICE = 1 << 14


class Marks(NamedTuple):
    """The ids around and in place of tokens.

    Attributes:
      mask: takes the place of the scored token.
      begin, end: stand before and after the tokens of a window; None for none.
    """

    mask: int
    begin: int | None
    end: int | None


class MiddleWindow(NamedTuple):
    """Tokens [begin, stop) of a document, of which [first, last) are scored."""

    begin: int
    first: int
    last: int
    stop: int


def middle_windows(tokens: int, size: int, stride: int) -> Iterator[MiddleWindow]:
    """Yields windows of `size` tokens, or one of all tokens; see the module."""
    scored, begin = 0, 0
    while True:
        stop = min(begin + size, tokens)
        last = tokens if stop == tokens else stop - (size - stride) // 2
        yield MiddleWindow(begin, scored, last, stop)
        if last == tokens:
            return
        scored, begin = last, min(begin + stride, tokens - size)


class _Row(NamedTuple):
    """A window of a document with one of its tokens masked."""

    document: int
    window: MiddleWindow
    ids: np.ndarray
    token: int


def score_masked(
    model: ModelConfig,
    params: Any,
    documents: Iterable[Document],
    *,
    marks: Marks,
    layout: MeshLayout,
    stride: int,
    window: int | None = None,
    batch_size: int | None = None,
    kept: Kept = NOTHING_KEPT,
    stored: Mapping[int, DocumentScore] | None = None,
    on_finish: Callable[[DocumentScore], None] = lambda score: None,
    on_progress: Callable[[int], None] | None = None,
) -> list[DocumentScore]:
    """Scores documents, with an entry for each that has a token, in their order; arguments as for `perplexity.score`.

    Raises UserError for a window or a stride that is out of range, and when there is no token to score.
    """
    length = model.context_length if window is None else window
    check_window(length, stride, model.context_length)
    around = (marks.begin is not None) + (marks.end is not None)
    if (size := length - around) < 1:
        raise UserError(f"a window of {length} tokens has no room beside {around} marks; give a longer --window")
    stride = min(stride, size)
    collector = Collector(length, detailed=False, kept=kept, stored=stored, on_finish=on_finish)

    def rows() -> Iterator[_Row]:
        for number, document in enumerate(documents):
            if not len(document.ids):
                continue
            found = list(middle_windows(len(document.ids), size, stride))
            # The collector counts a token before the first, which here is the mark of the window, or none.
            stream = np.concatenate([[-1 if marks.begin is None else marks.begin], document.ids])
            collector.begin(number, document, stream, NO_PREFIX, len(found))
            for one in found:
                for token in range(one.first, one.last):
                    yield _Row(number, one, document.ids[one.begin : one.stop], token)

    ways = layout.ways("batch")
    most = batch_size or ways * max(1, min(256, TOKENS_PER_DEVICE // length))
    count = -(-most // ways) * ways
    score_batch, placement = _compile_scoring(model, layout), layout.placement(("batch", None))
    losses: list[float] = []
    num_scored = 0

    def score_rows(some: list[_Row]) -> None:
        nonlocal num_scored
        wanted = [row for row in some if not collector.is_finished(row.document)]
        found = np.zeros(len(some), np.float64)
        if wanted:
            batch = _batch(some, count, length, marks)
            mine = {name: x[feed.local_rows(placement, count)] for name, x in batch.items()}
            found[:] = np.asarray(score_batch(params, feed.to_devices(mine, placement, count, True)))[: len(some)]
        for row, loss in zip(some, found, strict=True):
            losses.append(float(loss))
            if row.token + 1 == row.window.last:
                place = Window(row.window.begin, row.window.first, row.window.last)
                collector.add(row.document, place, TokenScores(np.array(losses)))
                losses.clear()
        num_scored += len(some)
        if on_progress is not None:
            on_progress(num_scored)

    group: list[_Row] = []
    for row in rows():
        group.append(row)
        if len(group) == count:
            score_rows(group)
            group = []
    if group:
        score_rows(group)
    if not (scores := collector.scores()):
        raise UserError("there is no token to score: every document is empty")
    return scores


def _batch(rows: list[_Row], count: int, length: int, marks: Marks) -> dict[str, np.ndarray]:
    """The arrays of a batch: `tokens` with a masked one in each row, `targets` without, `hidden` 1 where it is."""
    batch = {name: np.zeros((count, length), np.int32) for name in ("tokens", "segment_ids", "positions", "hidden")}
    batch["positions"][:] = np.arange(length)
    for number, row in enumerate(rows):
        first, text = int(marks.begin is not None), len(row.ids)
        tokens = batch["tokens"][number]
        if marks.begin is not None:
            tokens[0] = marks.begin
        tokens[first : first + text] = row.ids
        if marks.end is not None:
            tokens[first + text] = marks.end
        used = first + text + (marks.end is not None)
        batch["segment_ids"][number, :used] = 1
        batch["hidden"][number, first + row.token - row.window.begin] = 1
    return batch | {"targets": batch["tokens"], "tokens": np.where(batch["hidden"], marks.mask, batch["tokens"])}


@functools.lru_cache(maxsize=8)
def _compile_scoring(model: ModelConfig, layout: MeshLayout) -> Callable[..., jax.Array]:
    """The jitted loss in nats of the masked token of each row, float32 (B,), whole on every device."""

    def of_batch(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        seen = {name: batch[name] for name in ("tokens", "segment_ids", "positions")}
        stream_BTD = stream_of_batch(model, params, seen, layout).stream_BTD
        index_B1 = jnp.argmax(batch["hidden"], axis=1, keepdims=True)
        one_B1D = jnp.take_along_axis(stream_BTD, index_B1[..., None], axis=1)
        target_B1 = jnp.take_along_axis(batch["targets"], index_B1, axis=1)
        return nll(one_B1D, unembedding(model, params), target_B1, layout)[0][:, 0]

    return jax.jit(of_batch, out_shardings=replicated(layout.mesh))


def marks_of(experiment: Experiment, tokenizer: Tokenizer) -> Marks | None:
    """The marks of a run whose model fills in masks; None for one that predicts next tokens.

    A mask that is a token of the tokenizer is that of a published model, which reads a mark after a text too.

    Raises UserError for a model that sees a text from both sides and was trained without a mask.
    """
    if experiment.model.visibility.decodes:
        return None
    objective = experiment.objective
    if not isinstance(objective, MaskedTokens):
        raise UserError(f"objective: {type(objective).__name__} has no mask, in whose place tokens would be scored")
    end = None if objective.mask_id is None else tokenizer.end_of_document
    return Marks(objective.mask_token(experiment.model.vocab_size), tokenizer.begin_of_document, end)
