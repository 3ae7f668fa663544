"""The decoders of a tokenizer.json, one token at a time: tokens pass through a chain of stages.

The library decodes a whole list of tokens: each decoder maps the list to another list, and the last list is joined. A
stage here takes the tokens one by one and passes on the tokens that no later token can change. The library still
decodes each token; this module only knows how much of the list each of its decoders reads.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any

from train.data.tokenizers.streaming import IncrementalDecoder, common_prefix

_EMPTY_MODEL = {"type": "WordLevel", "vocab": {}, "unk_token": ""}


class Stage:
    """The base class of the stages: passes every token on."""

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        return [token]

    def end_known_text(self) -> list[str]:
        """Returns the tokens held back at the end of known text; see `IncrementalDecoder`."""
        return self.flush()

    def flush(self) -> list[str]:
        """Returns the tokens held back, after the last token."""
        return []


class MapStage(Stage):
    """Maps each token to another token; the first token may be mapped differently from the others."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._is_first = True

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        before: list[str] = [] if self._is_first else [""]
        self._is_first = False
        return [self._decode([*before, token])]


class CTCStage(MapStage):
    """CTC: only the first of equal neighbours counts, and tokens that become empty are left out."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        super().__init__(decode)
        self._last: str | None = None

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        repeated, self._last = token == self._last, token
        return [] if repeated else list(filter(None, [self._decode([token])]))


class LastTokenStage(Stage):
    """The last token is decoded differently from a token before it, so each token waits for the next.

    The beginning that both decodings share need not wait: no stage after this one may depend on where tokens begin and
    end.
    """

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._pending: list[str] = []
        self._returned = ""

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        passed = [self._decode([pending, ""])[len(self._returned) :] for pending in self._pending]
        self._pending, self._returned = [token], common_prefix(self._decode([token]), self._decode([token, ""]))
        return [*passed, self._returned] if self._returned else passed

    def end_known_text(self) -> list[str]:
        """Returns the tokens held back at the end of known text."""
        rest = self.flush()
        self._returned += "".join(rest)
        return rest

    def flush(self) -> list[str]:
        """Returns the tokens held back, after the last token."""
        return [self._decode([token])[len(self._returned) :] for token in self._pending]


class ByteFallbackStage(Stage):
    """Successive tokens <0xNN> are bytes: one text where all are UTF-8, else one U+FFFD for each byte."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._bytes = bytearray()

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        if len(token) == 6 and self._decode([token]) != token:
            self._bytes.append(int(token[3:5], 16))
            return []
        return [*self.flush(), token]

    def end_known_text(self) -> list[str]:
        """Returns the tokens held back at the end of known text."""
        try:
            return self.flush() if self._bytes.decode("utf-8") else []
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return self.flush()
            whole = self._bytes[: error.start].decode("utf-8")
            del self._bytes[: error.start]
            return [whole] if whole else []

    def flush(self) -> list[str]:
        """Returns the tokens held back, after the last token."""
        run, self._bytes = self._bytes, bytearray()
        try:
            return [run.decode("utf-8")] if run else []
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class ByteLevelStage(Stage):
    """GPT-2's characters for bytes; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        return [self._utf8.decode(byte_level_bytes(token))]

    def end_known_text(self) -> list[str]:
        """Returns the tokens held back at the end of known text."""
        return []

    def flush(self) -> list[str]:
        """Returns the tokens held back, after the last token."""
        return [self._utf8.decode(b"", final=True)]


class StripStage(Stage):
    """Removes up to `start` characters `content` at the beginning of a text, and up to `stop` at its end."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop
        self._pending = ""

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        cut = 0
        while cut < min(self._start, len(token)) and token[cut] == self._content:
            cut += 1
        self._start = self._start - cut if cut == len(token) else 0
        text = self._pending + token[cut:]
        num_pending = min(self._stop, len(text) - len(text.rstrip(self._content)))
        self._pending = text[len(text) - num_pending :]
        return [text[: len(text) - num_pending]]

    def end_known_text(self) -> list[str]:
        """Returns the tokens held back at the end of known text."""
        pending, self._pending = self._pending, ""
        return [pending]


class ReplaceStage(Stage):
    """Replaces a string in a text by another string."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern, self._content = pattern, content
        self._pending = ""

    def push(self, token: str) -> list[str]:
        """Takes a token and returns the tokens to pass on."""
        *before, rest = (self._pending + token).split(self._pattern)
        num_pending = next(n for n in range(len(self._pattern) - 1, -1, -1) if rest.endswith(self._pattern[:n]))
        self._pending = rest[len(rest) - num_pending :]
        return ["".join(part + self._content for part in before) + rest[: len(rest) - num_pending]]

    def flush(self) -> list[str]:
        """Returns the tokens held back, after the last token."""
        pending, self._pending = self._pending, ""
        return [pending]


class TokenDecoder(IncrementalDecoder):
    """Decodes ids through stages. `token_string` returns the token of an id, None for an id that is left out."""

    def __init__(self, token_string: Callable[[int], str | None], stages: list[Stage]) -> None:
        self._token_string = token_string
        self._stages = stages

    def push(self, token: int) -> str:
        """Takes an id and returns the text that no later id can change any more."""
        text = self._token_string(token)
        tokens = [] if text is None else [text]
        for stage in self._stages:
            tokens = [passed for token in tokens for passed in stage.push(token)]
        return "".join(tokens)

    def end_known_text(self) -> str:
        """Returns the rest of the text so far, except the bytes of an unfinished character."""
        return self._rest(lambda stage: stage.end_known_text())

    def flush(self) -> str:
        """Returns the text that was held back."""
        return self._rest(lambda stage: stage.flush())

    def _rest(self, end: Callable[[Stage], list[str]]) -> str:
        tokens: list[str] = []
        for stage in self._stages:
            tokens = [passed for token in tokens for passed in stage.push(token)] + end(stage)
        return "".join(tokens)


def make_stages(decoder: Any) -> list[Stage] | None:
    """The stages of the library's decoder (None: tokens are joined by spaces); None where it may read all tokens."""
    if decoder is None:
        return [MapStage(" ".join)]
    found: list[Stage] = []
    is_one_text = False  # whether the input is one token, which arrives in pieces
    for description in _flatten(json.loads(decoder.__getstate__())):
        stage = _text_stage(description) if is_one_text else _token_stage(description)
        if stage is None:
            return None
        is_one_text = is_one_text or description["type"] in ("Fuse", "ByteLevel")
        found.append(stage)
    takes_pieces = [type(after) is Stage for after in found[1:]] + [True]
    if any(isinstance(stage, LastTokenStage) and not ok for stage, ok in zip(found, takes_pieces, strict=True)):
        return None
    return found


def _flatten(description: dict[str, Any]) -> list[dict[str, Any]]:
    if description["type"] != "Sequence":
        return [description]
    return [stage for inside in description["decoders"] for stage in _flatten(inside)]


def _token_stage(description: dict[str, Any]) -> Stage | None:
    """The stage for a decoder whose input is tokens."""
    makers: dict[str, Callable[[Any], Stage]] = {
        "BPEDecoder": LastTokenStage,
        "ByteFallback": ByteFallbackStage,
        "CTC": CTCStage,
        "Metaspace": MapStage,
        "Replace": MapStage,
        "Strip": MapStage,
        "WordPiece": MapStage,
    }
    kind = description["type"]
    if kind in makers:
        return makers[kind](_library_decoder(description))
    return Stage() if kind == "Fuse" else ByteLevelStage() if kind == "ByteLevel" else None


def _text_stage(description: dict[str, Any]) -> Stage | None:
    """The stage for a decoder whose input is one text, piece by piece."""
    kind, pattern = description["type"], description.get("pattern", {})
    if kind == "Strip":
        return StripStage(description["content"], description["start"], description["stop"])
    if kind == "Replace" and pattern.get("String"):
        return ReplaceStage(pattern["String"], description["content"])
    return Stage() if kind == "Fuse" else None


def _library_decoder(description: dict[str, Any]) -> Callable[[list[str]], str]:
    """The library's decoding of a list of tokens by one decoder alone."""
    import tokenizers

    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor")
    whole = dict.fromkeys(parts) | {"version": "1.0", "added_tokens": [], "decoder": description, "model": _EMPTY_MODEL}
    decode: Callable[[list[str]], str] = tokenizers.Tokenizer.from_str(json.dumps(whole)).decoder.decode
    return decode


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: the character of a printable byte is itself, the others are U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


BYTE_OF_CHARACTER = _byte_characters()
_BYTE_NAME = re.compile("<0x([0-9A-Fa-f]{2})>")


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a token in GPT-2's characters; of a token with any other character its UTF-8."""
    values = [BYTE_OF_CHARACTER.get(character) for character in token]
    known = bytes(value for value in values if value is not None)
    return known if len(known) == len(values) else token.encode("utf-8")


def byte_of_name(token: str) -> bytes | None:
    """The byte of a token <0xNN>; None for any other token."""
    found = _BYTE_NAME.fullmatch(token)
    return None if found is None else bytes([int(found[1], 16)])
