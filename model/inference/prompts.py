"""What `generate` and the engine take from a prompt alike: whether it fits, the key of its draws, the tokens it has."""

import collections
import zlib
from collections.abc import Hashable, Iterable, Sequence

import jax
import numpy as np

from model.errors import UserError


def check_length(name: str, prompt: Sequence[int], length: int) -> None:
    """Raises UserError for a prompt that is longer than the context; the error begins with the name of the prompt."""
    if len(prompt) > length:
        raise UserError(
            f"{name} has {len(prompt)} tokens, more than the context of {length}; shorten it by "
            f"{len(prompt) - length} tokens or take a model with a longer context"
        )


def check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Raises UserError for ids outside the vocabulary; the error begins with their name."""
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise UserError(f"{name} has ids from {min(ids)} to {max(ids)}; this model knows 0 to {vocab_size - 1}")


def hash_of(prompt: Sequence[int]) -> int:
    """Returns the number of a prompt for `key_of_text`, below 2^32."""
    return zlib.crc32(np.asarray(prompt, np.int32).tobytes())


def key_of_text(seed: jax.Array, prompt_hash: jax.Array, sample_index: jax.Array) -> jax.Array:
    """Returns the random key of a text; the draw after position p uses this key folded with p."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt_hash), sample_index)


def seen_tokens(
    texts: Sequence[Sequence[int]], marks: Sequence[Sequence[int]], vocab_size: int, rows: int | None = None
) -> np.ndarray:
    """Returns True for the tokens of each text that the repetition penalty counts, (rows, V).

    Args:
      texts: the ids of each text.
      marks: of each text, the ids that the penalty does not count.
      vocab_size: V.
      rows: the number of rows; those after the texts are False. None for one row a text.
    """
    seen_BV = np.zeros((len(texts) if rows is None else rows, vocab_size), bool)
    for seen_V, text, own_marks in zip(seen_BV, texts, marks, strict=False):
        seen_V[list(text)] = True
        seen_V[list(own_marks)] = False
    return seen_BV


def occurrence_indices(items: Iterable[Hashable]) -> list[int]:
    """Returns for each item the number of equal items before it."""
    before: collections.Counter[Hashable] = collections.Counter()
    counts = []
    for item in items:
        counts.append(before[item])
        before[item] += 1
    return counts
