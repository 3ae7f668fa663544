"""The loss of a model on every token of whole documents, by a sliding window.

Every token of every document is scored once, with as much of its document before it as the window allows. The window
moves by `stride` tokens: after the first one, each window scores the last `stride` tokens that it holds (the last
window of a document fewer); its other tokens are only context.

The first token of a document is scored after the mark that begins a document, as in training and in generation: the
mark that a published model was trained with, or the mark that ends documents if the tokenizer has no other. Without any
such mark the model has nothing to predict the first token from: the token is not scored, and its bytes and words are
not counted. (A uniform guess, ln V, would not be the model's loss; on short texts it would be most of the loss.) The
mark at a document's end is not scored: it is not part of the text.

Documents that are shorter than the window share rows of a batch. The model keeps them apart and each has positions from
0, so their scores equal those of one document a row, to float rounding. If a model cannot keep them apart (see
`train.evaluation.window_packing.isolates_documents`), each document has its own row.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.details import TokenScores
from train.evaluation.document_scores import NOTHING_KEPT, Collector, DocumentScore, Kept
from train.evaluation.documents import Document
from train.evaluation.window_packing import (
    BATCHES_PACKED_TOGETHER,
    DocumentWindow,
    Row,
    isolates_documents,
    make_batch,
    pack_rows,
    with_columns,
)
from train.evaluation.windows import Window, WindowKind, check_window, windows
from train.objectives.next_token import statistics_of_tokens, token_nll
from train.parallel import feed
from train.parallel.table import MeshLayout, replicated

# The tokens of a batch on a device, when the user gives no batch size. Memory per token holds the residual stream and
# the activations of one layer: for LLaMA-2 7B (D = 4,096, F = 11,008) in bfloat16 about 50 kB, so 0.9 GB for 16,384.
# Logits do not count: they are computed in blocks (model/vocabulary/cross_entropy.py). This many keep a device busy.
TOKENS_PER_DEVICE = 1 << 14
NO_PREFIX = PrefixSize(0, 0)


def score(
    model: ModelConfig,
    params: Any,
    documents: Iterable[Document],
    *,
    begin: int | None,
    layout: MeshLayout,
    stride: int,
    window: int | None = None,
    kind: WindowKind = "sliding",
    batch_size: int | None = None,
    detailed: bool = False,
    kept: Kept = NOTHING_KEPT,
    stored: Mapping[int, DocumentScore] | None = None,
    on_finish: Callable[[DocumentScore], None] = lambda score: None,
    on_progress: Callable[[int], None] | None = None,
) -> list[DocumentScore]:
    """Scores documents; the result has an entry for each document with a scored token, in their order.

    Windows are batched as rows of one length. One program is compiled for rows that documents share, and one for rows
    with one document. The batches depend on the documents alone and not on `stored`: a batch is left out if all of its
    documents are stored, so that a continued evaluation gives the same numbers as one without an interruption.

    Args:
      model: the model's options.
      params: its parameters, on the mesh.
      documents: the documents to score; read as they are needed.
      begin: the id that a document begins after (the tokenizer's begin_of_document), or None.
      layout: the sharding of activations.
      stride: tokens that the window moves by, from 1 to the window's length.
      window: its length; None for the model's context length. A model whose training sequences were shorter than its
        context has not learnt the later positions, and is measured best at the length of those sequences.
      kind: the rule of the windows, see train/evaluation/windows.py.
      batch_size: rows at a time; None for rows of `TOKENS_PER_DEVICE` tokens in all, from 1 to 64 rows, for each of
        the devices that rows are split over.
      detailed: whether to compute the sums of train/evaluation/details.py too.
      kept: how many tokens to keep with their losses.
      stored: the scores of documents that were computed before, by number.
      on_finish: called with the score of each document when it is known, in any order.
      on_progress: called after every batch with the number of tokens scored so far.

    Raises:
      UserError: for a window or a stride that is out of range, and when there is no token to score.
    """
    length = model.context_length if window is None else window
    check_window(length, stride, model.context_length, kind)
    collector = Collector(length, detailed=detailed, kept=kept, stored=stored, on_finish=on_finish)

    def document_windows() -> Iterator[DocumentWindow]:
        for number, document in enumerate(documents):
            # Without an id that begins documents, the first token is only an input.
            stream = document.ids if begin is None else np.concatenate([[begin], document.ids])
            if len(stream) < 2:
                continue
            found = list(windows(len(stream) - 1, length, stride, kind))
            first = NO_PREFIX if begin is not None else document.first
            collector.begin(number, document, stream, first, len(found))
            for one in found:
                inputs, targets = stream[one.begin : one.stop], stream[one.begin + 1 : one.stop + 1]
                yield DocumentWindow(number, inputs, targets, one.first_scored - one.begin, one.begin, one.weight)

    num_scored = 0

    def count_scored(rows: Sequence[Row]) -> None:
        nonlocal num_scored
        num_scored += sum(len(one.inputs) - one.first_scored for row in rows for one in row)
        if on_progress is not None:
            on_progress(num_scored)

    def add_scores(result: Sequence[jax.Array], scored_rows: Sequence[Row]) -> None:
        arrays = [np.asarray(x, np.float64) for x in result]
        for index, row in enumerate(scored_rows):
            for one, first, stop in with_columns(row):
                scored = slice(first + one.first_scored, stop)
                scores = TokenScores(*(x_BT[index, scored] for x_BT in arrays))
                place = Window(one.begin, one.begin + one.first_scored, one.begin + stop - first, one.weight)
                collector.add(one.document, place, scores)
        count_scored(scored_rows)

    ways, packed = layout.ways("batch"), isolates_documents(model, length)
    max_rows = batch_size or ways * default_batch_size(length)
    size = -(-max_rows // ways) * ways
    lookahead = BATCHES_PACKED_TOGETHER * size * length
    groups = _chunks(pack_rows(document_windows(), length, packed=packed, lookahead=lookahead), size)
    score_batch, placement = _compile_scoring(model, layout, detailed), layout.placement(("batch", None))
    pending: tuple[Sequence[jax.Array], list[Row]] | None = None
    for number, group in enumerate(groups):
        if number == 0 and batch_size is None:  # perhaps the only batch: a smaller one needs less padding
            size = min(size, ways * _next_power_of_two(-(-len(group) // ways)))
        if all(collector.is_finished(one.document) for row in group for one in row):
            count_scored(group)
            continue
        # A document alone in its row needs no isolation, unless the model reads its length, which must exclude padding.
        isolated = model.reads_lengths or any(len(row) > 1 for row in group)
        batch = {name: x[feed.local_rows(placement, size)] for name, x in make_batch(group, size, length).items()}
        result = score_batch(params, feed.to_devices(batch, placement, size, isolated))
        if pending is not None:  # fetched one batch late, so that host and device work together
            add_scores(*pending)
        pending = result, group
    if pending is not None:
        add_scores(*pending)
    scores = collector.scores()
    if not scores:
        why = "" if begin is not None else " or has one token, with no mark that comes before it"
        raise UserError(f"there is no token to score: every document is empty{why}")
    return scores


@functools.lru_cache(maxsize=8)
def _compile_scoring(model: ModelConfig, layout: MeshLayout, detailed: bool) -> Callable[..., Sequence[jax.Array]]:
    """The jitted scores of every token, float32 (B, T), whole on every device: -log p in nats, or all statistics."""

    def losses(params: Any, batch: dict[str, jax.Array]) -> Sequence[jax.Array]:
        return (token_nll(model, params, batch, layout),)

    def statistics(params: Any, batch: dict[str, jax.Array]) -> Sequence[jax.Array]:
        return statistics_of_tokens(model, params, batch, layout)

    return jax.jit(statistics if detailed else losses, out_shardings=replicated(layout.mesh))


def default_batch_size(length: int) -> int:
    """The number of windows on a device that have `TOKENS_PER_DEVICE` tokens in all, from 1 to 64."""
    return max(1, min(64, TOKENS_PER_DEVICE // length))


def _next_power_of_two(minimum: int) -> int:
    """The smallest power of two that is at least `minimum`: with few batch sizes few programs are compiled."""
    return 1 << (minimum - 1).bit_length()


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
