"""The loss of a model on every token of whole documents, by a sliding window.

Every token of every document is scored once, with as much of its document before it as the window allows. The window
moves by `stride` tokens: after the first one, each window scores the last `stride` tokens that it holds (the last
window of a document fewer) and has the rest for context only.

The first token of a document is scored after the mark that begins one, as in training and in generation: the one that
a published model was trained with, or the mark that ends documents where the tokenizer has no other. A tokenizer
without any gives the model nothing to predict the first token from: that token is not scored, and its bytes and words
are not counted. (A uniform guess, ln V, would be a loss that no model made; on short texts it would be most of it.)
The mark at a document's end is not scored: it is no part of the text.

Documents that are shorter than the window share rows of a batch, where none sees another and positions begin anew in
each: their scores are those of one document a row, to float rounding. Where a model cannot keep them apart (see
`train.evaluation.packed.isolates`), each has a row of its own.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.documents import Document
from train.evaluation.measures import Entry, Tally
from train.evaluation.packed import AHEAD, Row, Stretch, batch_of, isolates, placed, rows
from train.objectives.next_token import token_nll
from train.parallel import feed
from train.parallel.table import MeshLayout, replicated

# The tokens of a batch on a device, when the batch size is ours to choose. For each, memory holds the stream and the
# activations of one layer: of LLaMA-2 7B (D = 4,096, F = 11,008) in bfloat16 about 50 kB, so 0.9 GB for 16,384. Logits
# do not count, since they are made in blocks (model/vocabulary/cross_entropy.py); and so many keep a device busy.
TOKENS = 1 << 14


class Window(NamedTuple):
    """Inputs [begin, stop) of a document, of which those from `scored` on have their targets scored."""

    begin: int
    scored: int
    stop: int


def windows(inputs: int, length: int, stride: int) -> Iterator[Window]:
    """The windows over a document of so many inputs: each is scored once, in the fullest window that ends with it."""
    scored, stop = 0, min(length, inputs)
    while scored < inputs:
        yield Window(max(0, stop - length), scored, stop)
        scored, stop = stop, min(stop + stride, inputs)


def score(
    model: ModelConfig,
    params: Any,
    documents: Iterable[Document],
    *,
    begin: int | None,
    layout: MeshLayout,
    stride: int,
    window: int | None = None,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Tally:
    """Scores documents: an entry of the tally for each of which a token is scored, in their order.

    Windows are batched as rows of one length. One program is compiled for rows that documents share, and one for those
    that hold one document.

    Args:
      model: the model's options.
      params: its parameters, on the mesh.
      documents: what to score; read as they are needed.
      begin: the id that a document begins after (the tokenizer's begin_of_document), or None.
      layout: how activations lie on the devices.
      stride: tokens that the window moves by, from 1 to the window's length.
      window: its length; None for the model's context length. A model whose training sequences were shorter than its
        context has not learnt the positions past them, and is measured best at their length.
      batch_size: rows at a time; None for rows of `TOKENS` tokens, 64 at most and one at least, for each of the devices
        that rows are split over.
      on_progress: told the number of tokens scored so far, after every batch.

    Raises:
      UserError: for a window or a stride that is out of range, and when there is no token to score.
    """
    length = model.context_length if window is None else window
    if not 1 <= length <= model.context_length:
        raise UserError(
            f"the window must be from 1 to the model's context of {model.context_length} tokens, got {length}"
        )
    if not 1 <= stride <= length:
        raise UserError(f"the stride must be from 1 to the window of {length} tokens, got {stride}")
    nll: list[float] = []
    sizes: list[tuple[int, int, int]] = []  # tokens, bytes and words, of what is scored of each document

    def stretches() -> Iterator[Stretch]:
        for document in documents:
            # Without an id to begin after, the first token is an input only.
            stream = document.ids if begin is None else np.concatenate([[begin], document.ids])
            if len(stream) < 2:
                continue
            number, first = len(sizes), PrefixSize(0, 0) if begin is not None else document.first
            sizes.append((len(stream) - 1, document.num_bytes - first.bytes, document.num_words - first.words))
            nll.append(0.0)
            for window in windows(len(stream) - 1, length, stride):
                inputs, targets = stream[window.begin : window.stop], stream[window.begin + 1 : window.stop + 1]
                yield Stretch(number, inputs, targets, window.scored - window.begin)

    done = 0

    def take(result: jax.Array, scored: Sequence[Row]) -> None:
        nonlocal done
        for row_T, row in zip(np.asarray(result, np.float64), scored, strict=False):
            for stretch, first, stop in placed(row):
                nll[stretch.document] += float(row_T[first + stretch.first : stop].sum())
                done += stop - first - stretch.first
        if on_progress is not None:
            on_progress(done)

    ways, packed = layout.ways("batch"), isolates(model, length)
    most = batch_size or ways * default_batch_size(length)
    size = -(-most // ways) * ways
    groups = _grouped(rows(stretches(), length, packed=packed, ahead=AHEAD * size * length), size)
    score_batch, placement = _compile(model, layout), layout.placement(("batch", None))
    waiting: tuple[jax.Array, list[Row]] | None = None
    for number, group in enumerate(groups):
        if number == 0 and batch_size is None:  # all there is, perhaps: then the others would be padding
            size = min(size, ways * _power_of_two(-(-len(group) // ways)))
        # A document alone in its row needs no isolation, unless the model reads its length, which excludes padding.
        isolated = model.reads_lengths or any(len(row) > 1 for row in group)
        batch = {name: x[feed.local_rows(placement, size)] for name, x in batch_of(group, size, length).items()}
        result = score_batch(params, feed.to_devices(batch, placement, size, isolated))
        if waiting is not None:  # read a batch late, so that the host prepares while the device computes
            take(*waiting)
        waiting = result, group
    if waiting is not None:
        take(*waiting)
    if not sizes:
        why = "" if begin is not None else " or has one token, with no mark that comes before it"
        raise UserError(f"there is no token to score: every document is empty{why}")
    return Tally(Entry(total, *size) for total, size in zip(nll, sizes, strict=True))


@functools.lru_cache(maxsize=8)
def _compile(model: ModelConfig, layout: MeshLayout) -> Callable[..., jax.Array]:
    """The jitted loss of every token: -log p in nats, float32 (B, T), whole on every device."""
    return jax.jit(lambda params, batch: token_nll(model, params, batch, layout), out_shardings=replicated(layout.mesh))


def default_batch_size(length: int) -> int:
    """Windows of `TOKENS` tokens in all for a device, from 1 to 64."""
    return max(1, min(64, TOKENS // length))


def _power_of_two(least: int) -> int:
    """The smallest power of two that is at least a number: few sizes of batches are few programs."""
    return 1 << (least - 1).bit_length()


def _grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
