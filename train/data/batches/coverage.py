"""Counts exactly the tokens and bytes that evaluating the first (input, target) pairs of a split covers."""

from __future__ import annotations

import dataclasses

import numpy as np

from train.data.shards.dataset import Split
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.prefixes import LOOKAHEAD_TOKENS, prefix_size

# The number of documents whose records are read together, which is faster than one by one.
DOCUMENTS_PER_READ = 1024


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The composition of some counted targets.

    Attributes:
      tokens: the targets that are text.
      end_tokens: the targets that are end-of-document tokens, which have no bytes.
      bytes: the bytes of the original text that the tokens encode.
    """

    tokens: int = 0
    end_tokens: int = 0
    bytes: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(self.tokens + other.tokens, self.end_tokens + other.end_tokens, self.bytes + other.bytes)


def count_targets(lengths: np.ndarray, tokenizer: Tokenizer, cross_document_targets: bool) -> int:
    """The number of counted targets of documents with `lengths` tokens, ends of documents included.

    Without a begin-of-document token nothing comes before a document's first token, so that token is not predicted.
    `cross_document_targets` says that the documents follow one another and see the documents before them: then only the
    very first token is left out.
    """
    lengths = np.asarray(lengths, np.int64)
    if tokenizer.begin_of_document is not None:
        return int(lengths.sum()) + (tokenizer.end_of_document is not None) * len(lengths)
    return int(max(lengths.sum() - 1, 0) if cross_document_targets else np.maximum(lengths - 1, 0).sum())


def count_coverage(split: Split, tokenizer: Tokenizer, pairs: int, cross_document_targets: bool) -> Coverage:
    """The coverage of the first `pairs` pairs of a split whose documents follow one another in their order.

    The bytes of whole documents are those of the original text; a partly covered document is decoded. Reads the first
    tokens of every document where there is no begin-of-document token and documents do not see each other.
    """
    lengths, sizes = (np.asarray(split.documents[name], np.int64) for name in ("tokens", "bytes"))
    has_begin, has_end = tokenizer.begin_of_document is not None, tokenizer.end_of_document is not None

    def first_bytes(document: int, tokens: int) -> int:
        """The bytes of the first `tokens` tokens of a document."""
        tokens = min(tokens, int(lengths[document]))
        if tokens == lengths[document]:
            return int(sizes[document])
        ids = split.tokens(document, 0, min(tokens + LOOKAHEAD_TOKENS, int(lengths[document]))).astype(np.int32)
        return min(prefix_size(tokenizer, ids, tokens).bytes, int(sizes[document]))

    # Joined without a begin token, pair j has token j + 1 of the stream as its target: the pairs reach one token
    # further.
    reach = min(pairs + 1, int(lengths.sum())) if cross_document_targets and not has_begin else pairs
    stops = np.cumsum(lengths + has_end)
    whole = int(np.searchsorted(stops, reach, side="right"))
    rest = reach - (int(stops[whole - 1]) if whole else 0)
    tokens, size = int(lengths[:whole].sum()), int(sizes[:whole].sum())
    end_tokens = whole if has_end else 0
    unpredicted = [] if has_begin else np.flatnonzero(lengths[:whole]).tolist()
    if rest:
        # A part of one more document. Not joined and without a begin token, its targets are the tokens after the first.
        covered = min(rest + (not has_begin and not cross_document_targets), int(lengths[whole]))
        tokens, size = tokens + covered, size + first_bytes(whole, covered)
        unpredicted += [] if has_begin else [whole]
    unpredicted = unpredicted[:1] if cross_document_targets else unpredicted
    for block in (unpredicted[k : k + DOCUMENTS_PER_READ] for k in range(0, len(unpredicted), DOCUMENTS_PER_READ)):
        split.reader.load(split.records(document, 0, 1)[0] for document in block)
        tokens, size = tokens - len(block), size - sum(first_bytes(document, 1) for document in block)
    return Coverage(tokens, end_tokens, size)
