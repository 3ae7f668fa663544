"""Files of pairs, and the datasets made from them."""

import dataclasses
import json

import pytest

from train.data.config import Bytes
from train.data.pairs.option import Pairs
from train.data.preferences.option import SeparatePreferences
from train.data.shards.dataset import open_dataset

ROWS = [{"source": text, "target": text[::-1]} for text in ("ab", "cde", "f", "ghij", "kl")]


@pytest.fixture
def write(tmp_path):
    """A function that writes rows into a file, and returns its path."""

    def file(rows=ROWS, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return file


@pytest.fixture
def option(write):
    """A function that makes an option: five pairs to train on, three to validate on."""

    def make(**changes):
        held_out = write(ROWS[:3], "held-out.jsonl")
        base = Pairs(
            path=changes.get("path") or write(),
            tokenizer=Bytes(),
            validation=SeparatePreferences(path=held_out),
            batch_size=2,
            source_length=6,
            sequence_length=5,
            prefetch=2,
        )
        return dataclasses.replace(base, **changes)

    return make


@pytest.fixture
def prepared(tmp_path):
    """A function that makes the dataset of an option, in a folder of the given name."""
    return lambda data, name="data", said=None: open_dataset(data.prepare(tmp_path / name, said))
