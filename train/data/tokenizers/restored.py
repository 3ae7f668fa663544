"""How much of a text comes back by decoding its tokens: bits per byte count bytes that the tokens may not hold."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from train.data.tokenizers.interface import Tokenizer

# Characters of a text from which on to count by code points is cheaper, whose table has as many rows as the largest.
LONG = 20_000


@dataclasses.dataclass(frozen=True)
class Lost:
    """The documents whose text decoding does not give back, and the bytes of theirs that are missing from it.

    A character is missing as often as it is in the text more often than in what is decoded. So a text that comes back
    in another order, or with more in it, is a document that is not given back, and no byte of it is missing.
    """

    documents: int = 0
    bytes: int = 0

    def __add__(self, other: Lost) -> Lost:
        return Lost(self.documents + other.documents, self.bytes + other.bytes)


def lost_of(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> Lost:
    """What decoding the ids of one document loses of its text. A tokenizer that loses nothing is not asked."""
    if tokenizer.is_lossless():
        return Lost()
    decoded = tokenizer.decode(ids)
    if decoded == text:
        return Lost()
    return Lost(1, _missing_bytes(text, decoded))


def _missing_bytes(text: str, decoded: str) -> int:
    """The bytes of the characters that are more often in the text than in what is decoded."""
    if len(text) < LONG:
        missing = collections.Counter(text) - collections.Counter(decoded)
        return sum(count * len(character.encode("utf-8")) for character, count in missing.items())
    there, back = (np.bincount(np.frombuffer(t.encode("utf-32-le"), np.uint32)) for t in (text, decoded))
    there[: len(back)] -= np.minimum(back[: len(there)], there[: len(back)])
    # A character takes a byte more from each of these code points on.
    return int(there.sum() + sum(there[start:].sum() for start in (0x80, 0x800, 0x10000)))
