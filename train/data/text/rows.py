"""The text of one row of a table; and rows of JSON, one per line or in an array."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from model.errors import UserError
from train.data.text.file_types import looks_binary
from train.data.text.units import Document, LabelField, Unit, printable

_SPACE = " \t\r\n"
_BLOCK = 1 << 16
# A word or an escape this close to the end of the characters read so far may continue after it.
_MAX_LITERAL_LENGTH = 16
_JSON_TYPES = {bool: "true or false", int: "a number", float: "a number", list: "an array", dict: "an object"}


class _ObjectWithDuplicates(dict[str, Any]):
    """A JSON object in which a name occurs more than once."""

    duplicates: frozenset[str] = frozenset()


def _object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    names = [name for name, _ in pairs]
    value_with_duplicates = _ObjectWithDuplicates(value)
    value_with_duplicates.duplicates = frozenset(name for name in value if names.count(name) > 1)
    return value_with_duplicates


# Numbers are never text: a float can hold a number of any length.
_DECODER = json.JSONDecoder(object_pairs_hook=_object_from_pairs, parse_int=float)


def text_of_value(value: Any, field: str, where: str) -> str:
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
        raise UserError(f"{where}: the field {field!r} holds {_json_type(value)}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: a lone surrogate (\\u{ord(value[error.start]):04x}) at character {error.start} of {field!r}; it"
            " is half a character: fix or delete the row"
        ) from None
    return value


def text_of_row(row: Any, field: str, where: str) -> str:
    """The text of a row of JSON: a string, or an object with the field. Raises UserError for any other row."""
    if isinstance(row, str):
        return text_of_value(row, field, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object with the field {field!r}, got {_json_type(row)}")
    if field not in row:
        names = ", ".join(map(repr, list(row)[:8])) or "none"
        raise UserError(
            f"{where}: no field {field!r}; it has {names}. Name the field with the text (--field, Source(field=...)),"
            " or leave the file out with a narrower path if it holds no table of texts"
        )
    if isinstance(row, _ObjectWithDuplicates) and field in row.duplicates:
        raise UserError(f"{where}: the field {field!r} occurs more than once; keep one of them")
    return text_of_value(row[field], field, where)


def label_of_row(row: Any, label: LabelField | None, where: str) -> str | None:
    """The label of a row of JSON; None where no label is asked for, or the row has none and need not have one.

    Raises UserError for a row without a label that is required, and for one that is no text.
    """
    if label is None:
        return None
    if not isinstance(row, dict) or label.name not in row:
        if label.required:
            names = ", ".join(map(repr, list(row)[:8])) if isinstance(row, dict) else ""
            raise UserError(f"{where}: no field {label.name!r}; it has {names or 'none'}; name another field")
        return None
    return label_of_value(row[label.name], label, where)


def label_of_value(value: Any, label: LabelField, where: str) -> str | None:
    """A label that was read; one that is not required is None where it is empty or no text.

    Raises UserError for a required label that is empty or no text.
    """
    if not label.required:
        return value if isinstance(value, str) and value else None
    named = text_of_value(value, label.name, where)
    if not named:
        raise UserError(f"{where}: the field {label.name!r} is empty; give every row a value, or leave the row out")
    return named


def _json_type(value: Any) -> str:
    return "null" if value is None else _JSON_TYPES.get(type(value), type(value).__name__)


def read_lines(unit: Unit, content: bytes, label: LabelField | None = None) -> Iterator[Document]:
    """Yields one document per line of jsonl; skips lines without text, unless they have a label."""
    file, offset, number = printable(unit.path), unit.start, unit.first
    for line in content.split(b"\n"):
        where = f"{file}, line {number} (byte {offset})"
        text = _decode(line, unit.path, offset, f"line {number}").strip(_SPACE)
        if text:
            row = _parse(text, where)
            if isinstance(row, list) and number == 1:
                raise UserError(f"{where}: expected an object per line, got an array; give the file the suffix .json")
            value, named = text_of_row(row, unit.field, where), label_of_row(row, label, where)
            if value or named is not None:
                yield Document(f"{unit.name}:{number}", value, named)
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
        raise UserError(f"{where} holds JSON that is nested too deeply to be read; fix or delete it") from None


def read_array(unit: Unit, content: bytes, label: LabelField | None = None) -> Iterator[Document]:
    """Yields one document per item of a part of a .json file; skips items without text, unless they have a label."""
    values = JsonValues(io.BytesIO(content), unit.path, unit.start, unit.first, is_partial=True)
    file = printable(unit.path)
    for value, _ in values:
        where = f"{file}, item {values.number}"
        text, named = text_of_row(value, unit.field, where), label_of_row(value, label, where)
        if text or named is not None:
            yield Document(f"{unit.name}:{values.number}", text, named)


class JsonValues:
    """The items of a JSON array, or successive JSON values, each with the byte at which it ends.

    Only about twice the size of one item is in memory. `number` is the number of the last item, counted from `first`.
    `is_partial` marks a part of a file that begins and ends between items. Raises UserError that names the file and
    the item for invalid JSON.
    """

    def __init__(self, file: BinaryIO, path: str, start: int, first: int = 1, is_partial: bool = False) -> None:
        self.number = first - 1
        self._file, self._path, self._is_partial = file, path, is_partial
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._bytes_read = self._byte_offset = start
        self._text, self._position, self._counted_to = "", 0, 0
        self._at_end = False
        self._first = first

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        character, comma_due = self._next_character(), self._first > 1
        array = character in (",", "]") if comma_due else character == "["
        if array and not comma_due:
            self._position += 1
        while character := self._next_character():
            if array and character == "]":
                self._position += 1
                if self._next_character():
                    self._raise_invalid("something follows the array")
                return
            if array and comma_due:
                if character != ",":
                    self._raise_invalid("expected a comma after it")
                self._position += 1
            comma_due = True
            yield self._value()
        if array and not self._is_partial:
            self._raise_invalid("the array has no end: is the file complete?")

    def _value(self) -> tuple[Any, int]:
        self._next_character()
        self.number += 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except RecursionError:
                self._raise_invalid("it is nested too deeply to be read")
            except json.JSONDecodeError as error:
                near = error.pos >= len(self._text) - _MAX_LITERAL_LENGTH or error.msg.startswith("Unterminated string")
                if self._at_end or not near:
                    self._raise_invalid(error.msg.removesuffix(" at"))
            else:
                if end < len(self._text) or self._at_end:  # else a number might continue
                    self._position = end
                    return value, self._count_bytes()
            self._read_more()

    def _next_character(self) -> str:
        """Goes to the next character that is not a space and returns it; returns "" at the end."""
        while True:
            while self._position < len(self._text):
                if self._text[self._position] not in _SPACE:
                    return self._text[self._position]
                self._position += 1
            if self._at_end:
                return ""
            self._read_more()

    def _read_more(self) -> None:
        """Drops the text already used, and reads at least as much as is left."""
        self._count_bytes()
        self._text, self._position, self._counted_to = self._text[self._position :], 0, 0
        block = self._file.read(max(_BLOCK, len(self._text)))
        self._bytes_read += len(block)
        self._at_end = not block
        try:
            self._text += self._decoder.decode(block, final=self._at_end)
        except UnicodeDecodeError as error:
            at = self._bytes_read - len(error.object)
            raise_not_utf8(error, self._path, at, f"item {self.number + 1} or after it")

    def _count_bytes(self) -> int:
        """The byte of the file at the current position in the text."""
        self._byte_offset += len(self._text[self._counted_to : self._position].encode("utf-8"))
        self._counted_to = self._position
        return self._byte_offset

    def _raise_invalid(self, why: str) -> NoReturn:
        raise UserError(
            f"{printable(self._path)}, item {max(self.number, 1)}: not JSON: {why}; expected an array of objects or of"
            " strings, or one object per line; leave the file out with a narrower path if it is not a table of texts"
        )


def _decode(content: bytes, path: str, offset: int, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise_not_utf8(error, path, offset, where)


def raise_not_utf8(error: UnicodeDecodeError, path: str, offset: int, where: str = "") -> NoReturn:
    """Raises UserError that names the file and the byte that is not UTF-8; the decoded bytes begin at `offset`."""
    subject = f"{printable(path)}{', ' + where + ',' if where else ''}"
    found = f"(found 0x{error.object[error.start]:02x}, {error.reason})"
    if looks_binary(error.object[:4096]):
        fix = "it looks like binary data, not text: leave it out with a narrower path such as 'folder/**/*.txt'"
    else:
        fix = "convert it (iconv -f OLD -t UTF-8), or leave it out with a narrower path such as 'folder/**/*.txt'"
    raise UserError(f"{subject} is not UTF-8 at byte {offset + error.start} {found}; {fix}") from None
