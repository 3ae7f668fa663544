"""Incremental decoders, which turn ids into text as the ids arrive."""

from __future__ import annotations

import abc
import codecs
from collections.abc import Callable


class IncrementalDecoder(abc.ABC):
    """Takes ids one by one. The texts that it returns, joined, are the text of all ids decoded at once."""

    @abc.abstractmethod
    def push(self, token: int) -> str:
        """Takes an id and returns the text that no later id can change any more."""

    @abc.abstractmethod
    def end_known_text(self) -> str:
        """Takes the ids so far as known text: returns the rest of this text, and continues after it.

        Only the bytes of an unfinished character are kept: the bytes that follow may complete it.
        """

    @abc.abstractmethod
    def flush(self) -> str:
        """Returns the text that was held back, at the end of all ids."""


class PerTokenDecoder(IncrementalDecoder):
    """For tokens whose text does not depend on their neighbours."""

    def __init__(self, decode_id: Callable[[int], str]) -> None:
        self._decode_id = decode_id

    def push(self, token: int) -> str:
        """Returns the text of an id."""
        return self._decode_id(token)

    def end_known_text(self) -> str:
        """Returns nothing: no text is held back."""
        return ""

    flush = end_known_text


class BytesDecoder(IncrementalDecoder):
    """For ids that are the bytes of UTF-8."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Takes a byte and returns the characters that it completes."""
        return self._utf8.decode(bytes([token]))

    def end_known_text(self) -> str:
        """Returns nothing: only an unfinished character is held back."""
        return ""

    def flush(self) -> str:
        """Returns an unfinished character, as U+FFFD."""
        return self._utf8.decode(b"", final=True)


class AtEndDecoder(IncrementalDecoder):
    """For a decoder that may need all ids before it returns any text: all text comes at the end."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known = ""

    def push(self, token: int) -> str:
        """Returns nothing yet."""
        self._ids.append(token)
        return ""

    def end_known_text(self) -> str:
        """Returns the text of the ids so far."""
        self._known = self._decode(self._ids)
        return self._known

    def flush(self) -> str:
        """Returns the text of all ids, after the text that `end_known_text` returned."""
        text = self._decode(self._ids)
        return text[len(common_prefix(self._known, text)) :]


def complete_characters(data: bytes) -> tuple[str, bytes]:
    """The characters that bytes spell, and the bytes of an unfinished last character.

    Each byte that cannot become part of a character gives one U+FFFD, as in SentencePiece; Python and Rust give one
    U+FFFD for all bytes that began a character together.
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


def common_prefix(one: str, other: str) -> str:
    """The characters that both texts begin with."""
    length = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
