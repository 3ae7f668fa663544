"""The text of one row of a table; and rows of JSON, one per line or in an array."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from model.errors import UserError
from train.data.text.kinds import looks_binary
from train.data.text.units import Document, Unit, readable

_SPACE = " \t\r\n"
_BLOCK = 1 << 16
# A word or an escape this close to the end of the characters read so far may continue after it.
_LONGEST_WORD = 16
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "an array", dict: "an object"}


class _Repeated(dict[str, Any]):
    """A JSON object in which a name occurs more than once."""

    repeated: frozenset[str] = frozenset()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    names = [name for name, _ in pairs]
    twice = _Repeated(value)
    twice.repeated = frozenset(name for name in value if names.count(name) > 1)
    return twice


# Numbers are never text: a float can hold a number of any length.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=float)


def text_of(value: Any, field: str, where: str) -> str:
    """A value as text; null is the empty text. Raises UserError that names the place for any other value."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}: the field {field!r} is not UTF-8 at its byte {error.start} (found"
                f" 0x{value[error.start]:02x}); write the table again with text in UTF-8"
            ) from None
    if not isinstance(value, str):
        raise UserError(f"{where}: the field {field!r} holds {_kind(value)}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: a lone surrogate (\\u{ord(value[error.start]):04x}) at character {error.start} of {field!r}; it"
            " is half a character: mend or delete the row"
        ) from None
    return value


def text_of_row(row: Any, field: str, where: str) -> str:
    """The text of a row of JSON: a string, or an object with the field. Raises UserError for any other row."""
    if isinstance(row, str):
        return text_of(row, field, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object with the field {field!r}, got {_kind(row)}")
    if field not in row:
        names = ", ".join(map(repr, list(row)[:8])) or "none"
        raise UserError(
            f"{where}: no field {field!r}; it has {names}. Name the field with the text (--field, Source(field=...)),"
            " or leave the file out with a narrower path if it holds no table of texts"
        )
    if isinstance(row, _Repeated) and field in row.repeated:
        raise UserError(f"{where}: the field {field!r} occurs more than once; keep one of them")
    return text_of(row[field], field, where)


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def read_lines(unit: Unit, content: bytes) -> Iterator[Document]:
    """Yields one document per line of jsonl; skips lines without text."""
    file, offset, number = readable(unit.path), unit.start, unit.first
    for line in content.split(b"\n"):
        where = f"{file}, line {number} (byte {offset})"
        text = _decode(line, unit.path, offset, f"line {number}").strip(_SPACE)
        if text:
            row = _parse(text, where)
            if isinstance(row, list) and number == 1:
                raise UserError(f"{where}: expected an object per line, got an array; give the file the suffix .json")
            value = text_of_row(row, unit.field, where)
            if value:
                yield Document(f"{unit.name}:{number}", value)
        offset, number = offset + len(line) + 1, number + 1


def _parse(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not JSON: {error.msg.removesuffix(' at')} (character {error.pos + 1} of it);"
            " expected one object per line"
        ) from None
    except RecursionError:
        raise UserError(f"{where} holds JSON that is nested too deeply to be read; mend or delete it") from None


def read_array(unit: Unit, content: bytes) -> Iterator[Document]:
    """Yields one document per item of a stretch of a .json file."""
    values = JsonValues(io.BytesIO(content), unit.path, unit.start, unit.first, goes_on=True)
    file = readable(unit.path)
    for value, _ in values:
        where = f"{file}, item {values.number}"
        text = text_of_row(value, unit.field, where)
        if text:
            yield Document(f"{unit.name}:{values.number}", text)


class JsonValues:
    """The items of a JSON array, or successive JSON values, each with the byte at which it ends.

    Only about twice the size of one item is in memory. `number` is the number of the last item, counted from `first`.
    `goes_on` marks a stretch of a file that begins and ends between items. Raises UserError that names the file and the
    item for invalid JSON.
    """

    def __init__(self, file: BinaryIO, path: str, start: int, first: int = 1, goes_on: bool = False) -> None:
        self.number = first - 1
        self._file, self._path, self._goes_on = file, path, goes_on
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fed = self._byte = start
        self._text, self._at, self._counted = "", 0, 0
        self._ended = False
        self._first = first

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        sign, comma_due = self._next_sign(), self._first > 1
        array = sign in (",", "]") if comma_due else sign == "["
        if array and not comma_due:
            self._at += 1
        while sign := self._next_sign():
            if array and sign == "]":
                self._at += 1
                if self._next_sign():
                    self._refuse("something follows the array")
                return
            if array and comma_due:
                if sign != ",":
                    self._refuse("expected a comma after it")
                self._at += 1
            comma_due = True
            yield self._value()
        if array and not self._goes_on:
            self._refuse("the array has no end: is the file complete?")

    def _value(self) -> tuple[Any, int]:
        self._next_sign()
        self.number += 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                self._refuse("it is nested too deeply to be read")
            except json.JSONDecodeError as error:
                near = error.pos >= len(self._text) - _LONGEST_WORD or error.msg.startswith("Unterminated string")
                if self._ended or not near:
                    self._refuse(error.msg.removesuffix(" at"))
            else:
                if end < len(self._text) or self._ended:  # else a number might continue
                    self._at = end
                    return value, self._count()
            self._more()

    def _next_sign(self) -> str:
        """Goes to the next character that is not a space and returns it; returns "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        """Drops the text already used, and reads at least as much as is left."""
        self._count()
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        block = self._file.read(max(_BLOCK, len(self._text)))
        self._fed += len(block)
        self._ended = not block
        try:
            self._text += self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            at = self._fed - len(error.object)
            refuse_bytes(error, self._path, at, f"item {self.number + 1} or after it")

    def _count(self) -> int:
        """The byte of the file at the current position in the text."""
        self._byte += len(self._text[self._counted : self._at].encode("utf-8"))
        self._counted = self._at
        return self._byte

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(
            f"{readable(self._path)}, item {max(self.number, 1)}: not JSON: {why}; expected an array of objects or of"
            " strings, or one object per line; leave the file out with a narrower path if it is not a table of texts"
        )


def _decode(content: bytes, path: str, offset: int, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse_bytes(error, path, offset, where)


def refuse_bytes(error: UnicodeDecodeError, path: str, offset: int, where: str = "") -> NoReturn:
    """Raises UserError that names the file and the byte that is not UTF-8; the decoded bytes begin at `offset`."""
    named = f"{readable(path)}{', ' + where + ',' if where else ''}"
    found = f"(found 0x{error.object[error.start]:02x}, {error.reason})"
    if looks_binary(error.object[:4096]):
        mend = "it looks like binary data, not text: leave it out with a narrower path such as 'folder/**/*.txt'"
    else:
        mend = "convert it (iconv -f OLD -t UTF-8), or leave it out with a narrower path such as 'folder/**/*.txt'"
    raise UserError(f"{named} is not UTF-8 at byte {offset + error.start} {found}; {mend}") from None
