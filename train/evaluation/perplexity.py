"""The loss of a model on every token of whole documents, by a sliding window.

Every token of every document is scored once, with as much of its document before it as the window allows. The window
moves by `stride` tokens: after the first one, each window scores the last `stride` tokens that it holds (the last
window of a document fewer) and has the rest for context only.

The first token of a document is scored after the mark that begins one, as in training and in generation: the one that
a published model was trained with, or the mark that ends documents where the tokenizer has no other. A tokenizer
without any gives the model nothing to predict the first token from: that token is not scored, and its bytes and words
are not counted. (A uniform guess, ln V, would be a loss that no model made; on short texts it would be most of it.)
The mark at a document's end is not scored: it is no part of the text.
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
from train.objectives.next_token import token_nll
from train.parallel import feed
from train.parallel.table import MeshLayout, replicated

LOGIT_BYTES = 1 << 28  # of one batch, when the batch size is ours to choose


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

    One program is compiled: windows are padded to one length and batched.

    Args:
      model: the model's options.
      params: its parameters, on the mesh.
      documents: what to score; read as they are needed.
      begin: the id that a document begins after (the tokenizer's begin_of_document), or None.
      layout: how activations lie on the devices.
      stride: tokens that the window moves by, from 1 to the window's length.
      window: its length; None for the model's context length. A model whose training sequences were shorter than its
        context has not learnt the positions past them, and is measured best at their length.
      batch_size: windows at a time; None for as many as keep the logits within 256 MiB, 64 at most.
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
    ways = layout.ways("batch")
    batch_size = -(-(batch_size or default_batch_size(length, model.vocab_size)) // ways) * ways
    placed = layout.placement(("batch", None))  # any window, where the mesh would split sequences too
    local = feed.local_rows(placed, batch_size)
    score_batch = _compile(model, layout)

    nll: list[float] = []
    sizes: list[tuple[int, int, int]] = []  # tokens, bytes and words, of what is scored of each document

    def rows() -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
        """(document, inputs, targets, first scored place) of every window."""
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
                yield number, inputs, targets, window.scored - window.begin

    done = 0

    def take(result: jax.Array, owners: Sequence[tuple[int, int, int]]) -> None:
        nonlocal done
        for row_T, (document, first, stop) in zip(np.asarray(result, np.float64), owners, strict=False):
            nll[document] += float(row_T[first:stop].sum())
            done += stop - first
        if on_progress is not None:
            on_progress(done)

    waiting: tuple[jax.Array, list[tuple[int, int, int]]] | None = None
    for group in _grouped(rows(), batch_size):
        # What follows a window in its row is another document, for models that are told of documents.
        tokens, targets, segment_ids, positions = np.zeros((4, batch_size, length), np.int32)
        for i, (_, inputs, outputs, _) in enumerate(group):
            size = len(inputs)
            tokens[i, :size], targets[i, :size], segment_ids[i, :size] = inputs, outputs, 1
            positions[i, :size], positions[i, size:] = np.arange(size), np.arange(length - size)
        filled = {"tokens": tokens, "targets": targets, "segment_ids": segment_ids, "positions": positions}
        batch = {name: x[local] for name, x in filled.items()}
        result = score_batch(params, feed.place(batch, placed, batch_size, model.reads_lengths))
        if waiting is not None:  # read a batch late, so that the host prepares while the device computes
            take(*waiting)
        waiting = result, [(document, first, len(inputs)) for document, inputs, _, first in group]
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


def default_batch_size(length: int, vocab_size: int) -> int:
    """Windows at a time that keep the float32 logits within `LOGIT_BYTES`, from 1 to 64."""
    return max(1, min(64, LOGIT_BYTES // (4 * length * vocab_size)))


def _grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
