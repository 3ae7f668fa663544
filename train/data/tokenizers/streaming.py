"""Ids to text as they come: what every tokenizer's decoder does token by token."""

from __future__ import annotations

import abc
import codecs
from collections.abc import Callable


class IncrementalDecoder(abc.ABC):
    """Takes ids one by one. What it returns, joined, is the text of all of them as it would be decoded at once."""

    @abc.abstractmethod
    def push(self, token: int) -> str:
        """Takes an id and returns the text that no later one can change any more."""

    @abc.abstractmethod
    def settle(self) -> str:
        """Takes what came until now as known text: returns the rest of it, and goes on after it.

        Only the bytes of an unfinished character are kept: those that follow may make it whole.
        """

    @abc.abstractmethod
    def flush(self) -> str:
        """The text that was held back, at the end of all ids."""


class PieceByPiece(IncrementalDecoder):
    """For tokens whose text is their own, whatever stands beside them."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self._text_of = text_of

    def push(self, token: int) -> str:
        """The text of an id."""
        return self._text_of(token)

    def settle(self) -> str:
        """Nothing: no text is held back."""
        return ""

    flush = settle


class BytesDecoder(IncrementalDecoder):
    """For ids that are the bytes of UTF-8."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Takes a byte and returns the characters that it completes."""
        return self._utf8.decode(bytes([token]))

    def settle(self) -> str:
        """Nothing: only an unfinished character is held back."""
        return ""

    def flush(self) -> str:
        """An unfinished character, as U+FFFD."""
        return self._utf8.decode(b"", final=True)


class WholeDecoder(IncrementalDecoder):
    """For a decoder that may look at all of a text before it says anything: all text comes at the end."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known = ""

    def push(self, token: int) -> str:
        """Nothing yet."""
        self._ids.append(token)
        return ""

    def settle(self) -> str:
        """The text of the ids until now."""
        self._known = self._decode(self._ids)
        return self._known

    def flush(self) -> str:
        """The text of all ids, after what `settle` returned."""
        text = self._decode(self._ids)
        return text[len(common_beginning(self._known, text)) :]


def complete_characters(data: bytes) -> tuple[str, bytes]:
    """The characters that bytes spell, and the bytes of a last one that more may complete.

    Each byte that no bytes after it can make part of a character is U+FFFD, as in SentencePiece; there are as many of
    them as such bytes, where Python and Rust have one for all that began a character together.
    """
    text = ""
    while data:
        try:
            return text + data.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text += data[: error.start].decode("utf-8")
            data = data[error.start :]
            if error.reason == "unexpected end of data":
                return text, data
            text, data = text + "\ufffd", data[1:]
    return text, b""


def common_beginning(one: str, other: str) -> str:
    """The characters that both texts begin with."""
    length = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
