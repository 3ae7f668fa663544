"""Loss, perplexity and bits per byte of a model on whole documents, by a sliding window.

Every token of every document is scored once, with as much of its document before it as the window allows. The window
moves by `stride` tokens: after the first one, each window scores the last `stride` tokens that it holds (the last
window of a document fewer) and has the rest for context only.

The first token of a document is scored after the id that ends documents, as in training. A tokenizer without such an id
gives the model nothing to predict the first token from: it is charged ln V nats, the loss of a uniform guess. So all
tokens and all bytes of a text are counted once, whatever the tokenizer. The mark at a document's end is not scored: it
is no part of the text.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from model.config import ModelConfig
from model.cross_entropy import cross_entropy
from model.errors import UserError
from model.transformer import forward
from train import feed, sharding
from train.evaluation.documents import Document

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


@dataclasses.dataclass(frozen=True)
class Scores:
    """What was measured, document by document, as float64 arrays of equal length.

    Attributes:
      nll: the sum of -log p over the document's tokens, in nats.
      tokens, bytes, words: the sizes of the document.
    """

    nll: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    words: np.ndarray


def score(
    model: ModelConfig,
    params: Any,
    documents: Iterable[Document],
    *,
    begin: int | None,
    mesh: jax.sharding.Mesh,
    table: sharding.Sharding,
    stride: int,
    window: int | None = None,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores documents. One program is compiled: windows are padded to one length and batched.

    Args:
      model: the model's options.
      params: its parameters, on the mesh.
      documents: what to score; read as they are needed.
      begin: the id that a document begins after (the tokenizer's end of document), or None.
      mesh: the devices.
      table: how activations lie on them.
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
    ways = sharding.ways(mesh, table, "batch")
    batch_size = -(-(batch_size or default_batch_size(length, model.vocab_size)) // ways) * ways
    placed = sharding.named(mesh, table, ("batch", None))  # any window, where the mesh would split sequences too
    local = feed.local_rows(placed, batch_size)
    token_nll = _compile(model, mesh, table)

    nll: list[float] = []
    sizes: list[tuple[int, int, int]] = []

    def rows() -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
        """(document, inputs, targets, first scored place) of every window."""
        for number, document in enumerate(documents):
            sizes.append((len(document.ids), document.num_bytes, document.num_words))
            # Without an id to begin after, the first token is the first input and a uniform guess.
            nll.append(math.log(model.vocab_size) if begin is None and len(document.ids) else 0.0)
            stream = document.ids if begin is None else np.concatenate([[begin], document.ids])
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
        tokens, targets = np.zeros((2, batch_size, length), np.int32)
        for i, (_, inputs, outputs, _) in enumerate(group):
            tokens[i, : len(inputs)], targets[i, : len(inputs)] = inputs, outputs
        batch = {"tokens": tokens[local], "targets": targets[local]}
        result = token_nll(params, **feed.place(batch, placed, batch_size, isolated=False))
        if waiting is not None:  # read a batch late, so that the host prepares while the device computes
            take(*waiting)
        waiting = result, [(document, first, len(inputs)) for document, inputs, _, first in group]
    if waiting is not None:
        take(*waiting)
    if not sum(size[0] for size in sizes):
        raise UserError("there is no token to score: every document is empty")
    tokens_D, bytes_D, words_D = np.asarray(sizes, np.float64).T
    return Scores(np.asarray(nll), tokens_D, bytes_D, words_D)


@functools.lru_cache(maxsize=8)
def _compile(model: ModelConfig, mesh: jax.sharding.Mesh, table: sharding.Sharding) -> Callable[..., jax.Array]:
    """The jitted loss of every token: -log p in nats, float32 (B, T), whole on every device."""
    shard = sharding.shard_activations(mesh, table)

    def token_nll(params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        return cross_entropy(forward(model, params, tokens, shard=shard).logits_BTV, targets)[0]

    return jax.jit(token_nll, out_shardings=sharding.replicated(mesh))


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


# ------------------------------------------------------------------------------------------------------ statistics


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and its standard error over documents; None where one document, or none, leaves it unknown."""

    value: float
    standard_error: float | None


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """sum(x) / sum(y) over documents, with the standard error of a ratio estimator.

    Documents are taken as drawn independently, and both sums vary with the draw. To first order (the delta method;
    Cochran 1977, "Sampling Techniques", section 2.11) the variance of R = sum(x) / sum(y) over D documents is
    D / (D - 1) * sum((x - R y)^2) / sum(y)^2.
    """
    total = float(denominators.sum())
    if total == 0:
        return Estimate(math.nan, None)
    value = float(numerators.sum()) / total
    count = len(numerators)
    if count < 2:
        return Estimate(value, None)
    residuals = numerators - value * denominators
    return Estimate(value, math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total)


def summarize(scores: Scores) -> dict[str, Estimate]:
    """Loss per token (nats), perplexity per token and per word, bits per byte.

    A word is what whitespace separates in the original text. The error of exp(loss) is exp(loss) times that of loss.
    """
    loss = ratio(scores.nll, scores.tokens)
    bits = ratio(scores.nll / math.log(2), scores.bytes)
    return {
        "loss": loss,
        "perplexity": _exponential(loss),
        "word_perplexity": _exponential(ratio(scores.nll, scores.words)),
        "bits_per_byte": bits,
    }


def _exponential(log: Estimate) -> Estimate:
    value = math.exp(min(log.value, 700.0))  # the largest float is near exp(709)
    return Estimate(value, None if log.standard_error is None else value * log.standard_error)
