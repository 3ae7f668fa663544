"""The dataset folder of data that a task makes: a tokenizer of numbers, and splits without documents."""

from __future__ import annotations

import pathlib

from train.data.config import Numbers
from train.data.generated import Generated
from train.data.shards import dataset
from train.data.tokenizers.interface import save_tokenizer
from train.data.tokenizers.numbers import NumbersTokenizer


def prepare_generated(data: Generated, folder: pathlib.Path) -> pathlib.Path:
    """Writes the folder if it is not there, and returns it: commands that open a run's dataset find its vocabulary."""
    if not dataset.is_dataset(folder):
        tokenizer = NumbersTokenizer(Numbers(vocab_size=data.task.num_symbols))
        save_tokenizer(tokenizer, folder)
        empty = dataset.describe_split([]) | dataset.unrestored_entry([])
        splits = dict.fromkeys(("train", "validation"), empty)
        dataset.write_dataset(folder, dataset.describe(tokenizer, folder) | {"splits": splits}, {})
    return folder
