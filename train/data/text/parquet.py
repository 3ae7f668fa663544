"""Rows of parquet files. The library `pyarrow` is an optional extra."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from train.data.text.compression import compression_of, open_bytes
from train.data.text.rows import text_of
from train.data.text.units import Document, Unit, cannot_read, readable, stamp

_ROWS_AT_ONCE = 1024


def parquet_units(path: str, name: str, field: str) -> list[Unit]:
    """A unit for every row group of a parquet file."""
    marked = stamp(path)
    file = _open(path, field, marked)
    units, first = [], 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        columns = (about.column(k) for k in range(about.num_columns))
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)
        units.append(Unit("parquet", path, name, group, group + 1, first, size, field, marked))
        first += about.num_rows
    return units


def read_parquet(unit: Unit) -> Iterator[Document]:
    """Yields one document per row; skips rows without text."""
    import pyarrow

    batches = _open(unit.path, unit.field, unit.stamp).iter_batches(
        _ROWS_AT_ONCE, row_groups=list(range(unit.start, unit.stop)), columns=[unit.field]
    )
    number, file = unit.first, readable(unit.path)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            values = _as_bytes(batch.column(batch.schema.names.index(unit.field))).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{file} is a damaged parquet file: row group {unit.start}, from row {number} on, cannot"
                f" be read: {error}; get it again"
            ) from None
        for value in values:
            text = text_of(value, unit.field, f"{file}, row {number}")
            if text:
                yield Document(f"{unit.name}:{number}", text)
            number += 1


def _as_bytes(column: Any) -> Any:
    """A column of strings as a column of bytes, which need not be UTF-8; nulls stay nulls."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column if pyarrow.types.is_null(column.type) else column.cast(pyarrow.large_binary())


@functools.lru_cache(maxsize=4)
def _open(path: str, field: str, stamp: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{readable(path)}: reading parquet needs pyarrow: pip install -e ".[parquet]"') from None
    try:
        file = pyarrow.parquet.ParquetFile(_whole(path))
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise cannot_read(path, error) from None
        raise UserError(f"{readable(path)} is not a parquet file, or is damaged: {error}; get it again") from None
    names = file.schema_arrow.names
    if names.count(field) != 1:
        found = f"the column {field!r} more than once" if field in names else f"no column {field!r}"
        raise UserError(
            f"{readable(path)} has {found}; it has {', '.join(map(repr, names[:20])) or 'none'}. Name the column with"
            " the text (--field, or Source(field=...))"
        )
    kind = file.schema_arrow.field(field).type
    if not _holds_text(kind):
        raise UserError(f"{readable(path)}: the column {field!r} holds {kind}, expected strings; name another column")
    return file


def _holds_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_null)
    views = (getattr(types, name, None) for name in ("is_string_view", "is_binary_view"))
    return any(test(kind) for test in (*tests, *filter(None, views)))


def _whole(path: str) -> Any:
    """The open file, decompressed into an unnamed temporary file where needed: parquet is read from its end."""
    if compression_of(path)[1] is None:
        return open(path, "rb")  # opened here, as pyarrow expects a name in UTF-8
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the table is
    try:
        with open_bytes(path) as file:
            shutil.copyfileobj(file, spool, 1 << 20)
        spool.seek(0)
    except OSError as error:
        raise UserError(
            f"{readable(path)} cannot be decompressed into {tempfile.gettempdir()}: {error.strerror}; make room there,"
            " or set TMPDIR to another folder"
        ) from None
    return spool
