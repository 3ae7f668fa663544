"""From a rendered text to ids: marks that the template writes are tokens, their names in a message are text."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from train.data.conversations.template import BEGIN, END, SPLIT
from train.data.tokenizers.interface import Tokenizer

_DOCUMENT_MARKS = re.compile(f"([{BEGIN}{END}])")


class Encoded(NamedTuple):
    """The ids of a rendered text, and for each the number of characters up to its end, int32 [tokens]."""

    ids: np.ndarray
    ends: np.ndarray


def names_of_marks(tokenizer: Tokenizer) -> list[str]:
    """The names of a tokenizer's marks of several characters, longest first, as `template.protected` takes them."""
    return sorted((name for name in tokenizer.marks() if len(name) > 1), key=len, reverse=True)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text from `ChatTemplate.render`.

    The text between two marks of the template is encoded by itself where a message wrote a mark's name in it.
    """
    ids: list[int] = []
    for part, kind in _parts(tokenizer, text):
        if kind == "document":
            ids += _document_mark(tokenizer, part)
        elif kind == "split":
            ids += tokenizer.encode(part.replace(SPLIT, "")).tolist()
        else:
            ids += tokenizer.encode_marked(part).tolist()
    return ids


def encode_with_ends(tokenizer: Tokenizer, text: str) -> Encoded:
    """The ids of `encode`, and their ends in the text.

    Raises UserError when the tokenizer cannot tell which characters its tokens stand for.
    """
    ids, ends, at = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for part, kind in _parts(tokenizer, text):
        if kind == "document":
            mark = _document_mark(tokenizer, part)
            found = np.array(mark, np.int32), np.full(len(mark), len(part), np.int32)
        elif kind == "split":
            found = tokenizer.encode_with_ends(part.replace(SPLIT, ""))
            kept = np.array([i for i, character in enumerate(part) if character != SPLIT], np.int32)
            found = found[0], kept[found[1] - 1] + 1
        else:
            found = tokenizer.encode_marked_with_ends(part)
        ids.append(found[0])
        ends.append(found[1] + at)
        at += len(part)
    return Encoded(np.concatenate(ids), np.concatenate(ends).astype(np.int32))


def _parts(tokenizer: Tokenizer, text: str) -> list[tuple[str, str]]:
    """The parts of a text that are encoded each by itself, with their kinds."""
    found = []
    for piece in _DOCUMENT_MARKS.split(text):
        if piece in (BEGIN, END):
            found.append((piece, "document"))
        elif SPLIT in piece:
            found += [(part, "split" if SPLIT in part else "text") for part in tokenizer.split_at_marks(piece)]
        elif piece:
            found.append((piece, "text"))
    return found


def _document_mark(tokenizer: Tokenizer, character: str) -> list[int]:
    mark = tokenizer.begin_of_document if character == BEGIN else tokenizer.end_of_document
    return [] if mark is None else [mark]


def covered(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """The characters [start, stop) of each token: from the end of the token before it; a token has at least one."""
    stops = encoded.ends
    starts = np.minimum(np.append(np.int32(0), stops[:-1]), stops - 1)
    return np.maximum(starts, 0), stops
