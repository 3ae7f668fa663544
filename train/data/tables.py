"""Sources whose files hold many documents: jsonl, parquet, and Hugging Face datasets. Their libraries are extras."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from model.errors import UserError
from train.data.config import Source

if TYPE_CHECKING:
    from train.data.sources import Document, Unit


def read_jsonl(unit: Unit) -> Iterator[Document]:
    """One document a line: the string in the unit's field. Lines without text are passed over."""
    from train.data.sources import Document, decode, read_bytes

    offset, number = unit.start, unit.first
    for line in read_bytes(unit.path, unit.start, unit.stop).split(b"\n"):
        where = f"{unit.path}, line {number} (byte {offset})"
        text = decode(line, unit.path, offset).strip()
        if text:
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(f"{where} is no JSON: {error}; expected one object a line") from None
            value = _text_of(row, unit.field, where)
            if value:
                yield Document(f"{unit.name}:{number}", value)
        offset, number = offset + len(line) + 1, number + 1


def _text_of(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object with the field {field!r}, got {type(row).__name__}")
    if field not in row:
        raise UserError(
            f"{where}: no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}. Name the one with the text"
        )
    value = row[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: the field {field!r} holds {type(value).__name__}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: a lone surrogate at character {error.start} of {field!r}; it is no text") from None
    return value


def parquet_units(path: pathlib.Path, name: str, field: str) -> list[Unit]:
    """A unit for every row group of a parquet file."""
    from train.data.sources import Unit

    file = _open_parquet(str(path), field)
    units, first = [], 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        units.append(Unit("parquet", str(path), name, group, group + 1, first, about.total_byte_size, field))
        first += about.num_rows
    return units


def read_parquet(unit: Unit) -> Iterator[Document]:
    """One document a row."""
    from train.data.sources import Document

    table = _open_parquet(unit.path, unit.field).read_row_groups(
        list(range(unit.start, unit.stop)), columns=[unit.field]
    )
    for i, value in enumerate(table.column(0).to_pylist()):
        number = unit.first + i
        text = _text_of({unit.field: value or ""}, unit.field, f"{unit.path}, row {number}")
        if text:
            yield Document(f"{unit.name}:{number}", text)


@functools.lru_cache(maxsize=4)
def _open_parquet(path: str, field: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path}: reading parquet needs pyarrow: pip install -e ".[parquet]"') from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no parquet file, or a damaged one: {error}") from None
    if field not in file.schema_arrow.names:
        raise UserError(f"{path} has no column {field!r}; it has {', '.join(map(repr, file.schema_arrow.names))}")
    return file


def hugging_face_units(source: Source, bytes_per_unit: int) -> list[Unit]:
    """Stretches of rows of a Hugging Face dataset, each of about as many bytes."""
    from train.data.sources import Unit

    table = _load_hugging_face(source.path)
    if source.field not in table.column_names:
        raise UserError(
            f"{source.path} has no column {source.field!r}; it has {', '.join(map(repr, table.column_names))}"
        )
    size = max(1, int(table.data.nbytes))
    rows = max(1, len(table) * bytes_per_unit // size)
    name = source.path.removeprefix("hf:")
    return [
        Unit("hf", source.path, name, start, stop, start, (stop - start) * size // len(table), source.field)
        for start in range(0, len(table), rows)
        for stop in (min(start + rows, len(table)),)
    ]


def read_hugging_face(unit: Unit) -> Iterator[Document]:
    """One document a row."""
    from train.data.sources import Document

    rows = _load_hugging_face(unit.path)[unit.start : unit.stop][unit.field]
    for number, value in enumerate(rows, unit.start):
        text = _text_of({unit.field: value or ""}, unit.field, f"{unit.path}, row {number}")
        if text:
            yield Document(f"{unit.name}:{number}", text)


@functools.lru_cache(maxsize=2)
def _load_hugging_face(path: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f'{path}: a Hugging Face dataset needs datasets: pip install -e ".[datasets]"') from None
    name, _, rest = path.removeprefix("hf:").partition(":")
    configuration, _, split = rest.partition(":")
    try:
        return datasets.load_dataset(name, configuration or None, split=split or "train")
    except (ValueError, OSError, RuntimeError) as error:  # unknown name, configuration or split; no network
        raise UserError(f"{path} could not be loaded: {error}; expected hf:NAME[:CONFIG[:SPLIT]]") from None
