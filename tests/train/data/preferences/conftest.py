"""Files of preferences, and the datasets made from them."""

import dataclasses
import json

import pytest

from train.data.config import Bytes
from train.data.preferences.option import NoTemplate, Preferences, SeparatePreferences
from train.data.prepare.progress import Reporter
from train.data.shards.dataset import open_dataset


class Said(Reporter):
    """Keeps the messages."""

    def __init__(self):
        self.lines = []

    def message(self, line):
        self.lines.append(line)


ROWS = [{"prompt": f"{i}", "chosen": "a" * (i + 1), "rejected": "bc", "margin": i} for i in range(4)]


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
    """A function that makes an option: four rows to train on, two to validate on."""

    def make(**changes):
        held_out = write([{"prompt": "v", "chosen": "yes", "rejected": n} for n in ("no", "nope")], "held-out.jsonl")
        base = Preferences(
            path=write(),
            tokenizer=Bytes(),
            template=NoTemplate(),
            validation=SeparatePreferences(path=held_out),
            batch_size=3,
            sequence_length=9,
            prefetch=2,
        )
        return dataclasses.replace(base, **changes)

    return make


@pytest.fixture
def prepared(tmp_path):
    """A function that makes the dataset of an option, in a folder of the given name."""
    return lambda data, name="data", said=None: open_dataset(data.prepare(tmp_path / name, said))


@pytest.fixture
def said():
    return Said()
