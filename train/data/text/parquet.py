"""Rows of parquet files. The library `pyarrow` is an optional extra."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from train.data.text.compression import compression_of, open_bytes
from train.data.text.rows import label_of_value, text_of_value
from train.data.text.units import Document, LabelField, Unit, cannot_read, file_version, printable

_ROWS_PER_READ = 1024


def parquet_units(path: str, name: str, field: str) -> list[Unit]:
    """A unit for every row group of a parquet file."""
    version = file_version(path)
    file = _open(path, field, version)
    units, first = [], 0
    for group in range(file.num_row_groups):
        row_group = file.metadata.row_group(group)
        columns = (row_group.column(k) for k in range(row_group.num_columns))
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)
        units.append(Unit("parquet", path, name, group, group + 1, first, size, field, version))
        first += row_group.num_rows
    return units


def read_parquet(unit: Unit, label: LabelField | None = None) -> Iterator[Document]:
    """Yields one document per row; skips rows without text, unless they have a label."""
    import pyarrow

    table = _open(unit.path, unit.field, unit.file_version)
    if label is not None:
        try:
            _check_column(table, unit.path, label.name)
        except UserError:
            if label.required:
                raise
            label = None
    columns = list(dict.fromkeys([unit.field] if label is None else [unit.field, label.name]))
    batches = table.iter_batches(_ROWS_PER_READ, row_groups=list(range(unit.start, unit.stop)), columns=columns)
    number, file = unit.first, printable(unit.path)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            values, labels = (
                [None] * len(batch) if name is None else _as_bytes(batch.column(name)).to_pylist()
                for name in (unit.field, None if label is None else label.name)
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{file} is a damaged parquet file: row group {unit.start}, from row {number} on, cannot"
                f" be read: {error}; get it again"
            ) from None
        for value, value_of_label in zip(values, labels, strict=True):
            where, named = f"{file}, row {number}", None
            text = text_of_value(value, unit.field, where)
            if label is not None:
                named = label_of_value(text_of_value(value_of_label, label.name, where), label, where)
            if text or named is not None:
                yield Document(f"{unit.name}:{number}", text, named)
            number += 1


def _as_bytes(column: Any) -> Any:
    """A column of strings as a column of bytes, which need not be UTF-8; nulls stay nulls."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column if pyarrow.types.is_null(column.type) else column.cast(pyarrow.large_binary())


@functools.lru_cache(maxsize=4)
def _open(path: str, field: str, version: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{printable(path)}: reading parquet needs pyarrow: pip install -e ".[parquet]"') from None
    try:
        file = pyarrow.parquet.ParquetFile(_open_seekable(path))
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise cannot_read(path, error) from None
        raise UserError(f"{printable(path)} is not a parquet file, or is damaged: {error}; get it again") from None
    _check_column(file, path, field)
    return file


def _check_column(file: Any, path: str, field: str) -> None:
    """Raises UserError when a table does not have the column once, with strings."""
    names = file.schema_arrow.names
    if names.count(field) != 1:
        found = f"the column {field!r} more than once" if field in names else f"no column {field!r}"
        raise UserError(
            f"{printable(path)} has {found}; it has {', '.join(map(repr, names[:20])) or 'none'}. Name the column with"
            " the text (--field, or Source(field=...))"
        )
    column_type = file.schema_arrow.field(field).type
    if not _is_text_type(column_type):
        raise UserError(
            f"{printable(path)}: the column {field!r} holds {column_type}, expected strings; name another column"
        )


def _is_text_type(column_type: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(column_type):
        column_type = column_type.value_type
    checks = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_null)
    views = (getattr(types, name, None) for name in ("is_string_view", "is_binary_view"))
    return any(test(column_type) for test in (*checks, *filter(None, views)))


def _open_seekable(path: str) -> Any:
    """The open file, decompressed into an unnamed temporary file where needed: parquet is read from its end."""
    if compression_of(path)[1] is None:
        return open(path, "rb")  # opened here, as pyarrow expects a name in UTF-8
    temporary = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the table is
    try:
        with open_bytes(path) as file:
            shutil.copyfileobj(file, temporary, 1 << 20)
        temporary.seek(0)
    except OSError as error:
        raise UserError(
            f"{printable(path)} cannot be decompressed into {tempfile.gettempdir()}: {error.strerror}; make room there,"
            " or set TMPDIR to another folder"
        ) from None
    return temporary
