"""Rows of Hugging Face datasets. The library `datasets` is an optional extra."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from train.data.text.rows import label_of_value, text_of_value
from train.data.text.units import Document, LabelField, Unit

PREFIX = "hf:"


def hub_units(path: str, field: str, bytes_per_unit: int) -> list[Unit]:
    """The units of a Hugging Face dataset: ranges of rows of about `bytes_per_unit` bytes each."""
    table = _load(path)
    if field not in table.column_names:
        raise _no_column(path, field, table)
    size = max(1, int(table.data.nbytes))
    rows = max(1, len(table) * bytes_per_unit // size)
    name = path.removeprefix(PREFIX)
    return [
        Unit("hf", path, name, start, stop, start, (stop - start) * size // len(table), field)
        for start in range(0, len(table), rows)
        for stop in (min(start + rows, len(table)),)
    ]


def read_hub(unit: Unit, label: LabelField | None = None) -> Iterator[Document]:
    """Yields one document per row; skips rows without text, unless they have a label."""
    table = _load(unit.path)
    if label is not None and label.name not in table.column_names:
        if label.required:
            raise _no_column(unit.path, label.name, table)
        label = None
    rows = table[unit.start : unit.stop]
    for number, value in enumerate(rows[unit.field], unit.start):
        where, named = f"{unit.path}, row {number}", None
        text = text_of_value(value, unit.field, where)
        if label is not None:
            value_of_label = rows[label.name][number - unit.start]
            named = label_of_value(value_of_label, label, where)
        if text or named is not None:
            yield Document(f"{unit.name}:{number}", text, named)


def _no_column(path: str, field: str, table: Any) -> UserError:
    return UserError(f"{path} has no column {field!r}; it has {', '.join(map(repr, table.column_names))}")


@functools.lru_cache(maxsize=2)
def _load(path: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f'{path}: a Hugging Face dataset needs datasets: pip install -e ".[datasets]"') from None
    name, _, rest = path.removeprefix(PREFIX).partition(":")
    configuration, _, split = rest.partition(":")
    try:
        return datasets.load_dataset(name, configuration or None, split=split or "train")
    except (ValueError, OSError, RuntimeError) as error:  # unknown name, configuration or split; no network
        raise UserError(f"{path} could not be loaded: {error}; expected hf:NAME[:CONFIG[:SPLIT]]") from None
