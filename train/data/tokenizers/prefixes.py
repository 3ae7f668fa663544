"""How much of a document's text its first tokens hold, found by decoding alone, so for any tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.streaming import common_beginning

# Tokens decoded past the prefix: a character has four bytes at most, and a token of it holds one of them or more.
AHEAD = 8


class PrefixSize(NamedTuple):
    """The bytes of UTF-8 in some first tokens of a document, and the words that end within them."""

    bytes: int
    words: int


def prefix_size(tokenizer: Tokenizer, ids: np.ndarray, count: int) -> PrefixSize:
    """The size of the first `count` tokens of a document, of which `ids` must hold `AHEAD` more where it has them.

    The words of the prefix and of the rest add up to those of the document: a word that goes on in the rest is the
    rest's. A character whose bytes are spread over tokens on both sides is divided as they divide it. That is exact
    where each of them holds one of its bytes (Bytes, byte fallback); where a token holds more (byte-level merges), it
    may be off by one byte. Of a tokenizer that does not restore its text, these are the sizes of the text that it
    gives back.
    """
    if count <= 0:
        return PrefixSize(0, 0)
    text = tokenizer.decode(ids[: count + AHEAD])

    def whole_and_begun(tokens: int) -> tuple[int, bool]:
        """The characters that some first tokens hold, and whether they hold the beginning of one more."""
        decoded = tokenizer.decode(ids[:tokens])
        shared = len(common_beginning(decoded, text))
        return shared, shared < min(len(decoded), len(text))

    characters, begun = whole_and_begun(count)
    size = len(text[:characters].encode())
    if begun:
        size += _bytes_of_part(text[characters], characters, count, len(ids), whole_and_begun)
    before, after = text[characters - 1 : characters], text[characters : characters + 1]
    goes_on = bool(before.strip()) and bool(after.strip())
    return PrefixSize(size, len(text[:characters].split()) - goes_on)


def _bytes_of_part(
    character: str, place: int, count: int, most: int, whole_and_begun: Callable[[int], tuple[int, bool]]
) -> int:
    """The bytes of a character, at `place` in the text, that are in the first `count` tokens, which end amid it."""
    size = len(character.encode())
    before = after = 1
    while before < min(size, count) and whole_and_begun(count - before) == (place, True):
        before += 1
    while after < min(size, most - count) and whole_and_begun(count + after)[0] <= place:
        after += 1
    # Every token of the character holds a byte of it or more: what these bounds leave open is halved.
    least, largest = min(before, size - 1), max(size - after, 1)
    return max(least, (least + largest) // 2)
