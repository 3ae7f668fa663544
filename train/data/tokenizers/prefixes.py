"""The size of the text in a document's first tokens, found by decoding alone, so for any tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.streaming import common_prefix

# Tokens decoded past the prefix: a character has at most four bytes, and each of its tokens holds at least one of them.
LOOKAHEAD_TOKENS = 8


class PrefixSize(NamedTuple):
    """The bytes of UTF-8 in some first tokens of a document, and the words and characters that end within them."""

    bytes: int
    words: int
    characters: int = 0


def prefix_size(tokenizer: Tokenizer, ids: np.ndarray, count: int) -> PrefixSize:
    """The size of the first `count` tokens of a document.

    `ids` must hold `LOOKAHEAD_TOKENS` more tokens if the document has them.
    The words of the prefix and of the rest add up to the words of the document: a word that continues in the rest
    counts there. Where a character has tokens on both sides, its bytes are divided between the sides. This is exact if
    each token holds one of its bytes (Bytes, byte fallback); if a token holds more (byte-level merges), it may be off
    by one byte. For a tokenizer that does not restore its text, the sizes are those of the decoded text.
    """
    if count <= 0:
        return PrefixSize(0, 0)
    text = tokenizer.decode(ids[: count + LOOKAHEAD_TOKENS])

    def characters_within(tokens: int) -> tuple[int, bool]:
        """The number of characters in the first `tokens` tokens, and whether the beginning of another follows."""
        decoded = tokenizer.decode(ids[:tokens])
        shared = len(common_prefix(decoded, text))
        return shared, shared < min(len(decoded), len(text))

    characters, is_split = characters_within(count)
    size = len(text[:characters].encode())
    if is_split:
        size += _bytes_of_split_character(text[characters], characters, count, len(ids), characters_within)
    before, after = text[characters - 1 : characters], text[characters : characters + 1]
    word_continues = bool(before.strip()) and bool(after.strip())
    return PrefixSize(size, len(text[:characters].split()) - word_continues, characters)


def _bytes_of_split_character(
    character: str, index: int, count: int, num_tokens: int, characters_within: Callable[[int], tuple[int, bool]]
) -> int:
    """The bytes of the character at `index` in the text that are in the first `count` tokens, which end inside it."""
    size = len(character.encode())
    before = after = 1
    while before < min(size, count) and characters_within(count - before) == (index, True):
        before += 1
    while after < min(size, num_tokens - count) and characters_within(count + after)[0] <= index:
        after += 1
    # Every token of the character holds at least one of its bytes; the result is the middle of these bounds.
    minimum, maximum = min(before, size - 1), max(size - after, 1)
    return max(minimum, (minimum + maximum) // 2)
