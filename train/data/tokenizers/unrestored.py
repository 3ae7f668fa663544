"""The text that decoding its tokens does not restore: bits per byte count bytes that the tokens may not hold."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from train.data.tokenizers.interface import Tokenizer

# From this many characters on a table of code points, which is as long as the largest of them, counts faster.
LONG_TEXT = 20_000


@dataclasses.dataclass(frozen=True)
class UnrestoredText:
    """The number of documents whose text decoding does not restore, and the bytes of them that are missing after it.

    A character with n occurrences in the text and m < n in the decoded text is missing n - m times. So a document that
    comes back in another order, or with additional characters, is not restored, but no byte of it is missing.
    """

    documents: int = 0
    bytes: int = 0

    def __add__(self, other: UnrestoredText) -> UnrestoredText:
        return UnrestoredText(self.documents + other.documents, self.bytes + other.bytes)


def unrestored_text(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> UnrestoredText:
    """The text of one document that decoding its ids does not restore. For a lossless tokenizer nothing is decoded."""
    if tokenizer.is_lossless():
        return UnrestoredText()
    decoded = tokenizer.decode(ids)
    if decoded == text:
        return UnrestoredText()
    return UnrestoredText(1, _missing_bytes(text, decoded))


def _missing_bytes(text: str, decoded: str) -> int:
    """The bytes of the characters that occur more often in the text than in the decoded text."""
    if len(text) < LONG_TEXT:
        missing = collections.Counter(text) - collections.Counter(decoded)
        return sum(count * len(character.encode("utf-8")) for character, count in missing.items())
    counts, decoded_counts = (np.bincount(np.frombuffer(t.encode("utf-32-le"), np.uint32)) for t in (text, decoded))
    counts[: len(decoded_counts)] -= np.minimum(decoded_counts[: len(counts)], counts[: len(decoded_counts)])
    # A character takes one byte more from each of these code points on.
    return int(counts.sum() + sum(counts[start:].sum() for start in (0x80, 0x800, 0x10000)))
