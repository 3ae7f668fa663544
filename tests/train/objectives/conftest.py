"""Pairs of random answers, for the objectives that read them."""

import dataclasses

import numpy as np
import pytest

from tests.model.conftest import drawn_params as random_params
from tests.model.conftest import small_config
from train.data.config import Bytes
from train.data.preferences.option import NoTemplate, Preferences


@dataclasses.dataclass(frozen=True)
class RandomPairs:
    """Rows of two answers of different lengths, with margins and log-probabilities of a reference."""

    data: Preferences

    def params(self, model):
        return random_params(model)

    def batch(self, rows=None, seed=0):
        rows = self.data.batch_size if rows is None else rows
        draw = np.random.default_rng(seed)
        shape, index = (rows, self.data.sequence_length), np.arange(self.data.sequence_length)
        batch = {"margin": np.broadcast_to(draw.uniform(0, 2, (rows, 1)), shape).astype(np.float32)}
        begin = draw.integers(1, 4, (rows, 1))  # the first token of both answers
        for text in ("chosen_", "rejected_"):
            length = begin + draw.integers(1, shape[1] - 3, (rows, 1))
            tokens = np.where(index < length, draw.integers(0, 257, shape), 0).astype(np.int32)
            targets = np.where(index < length - 1, np.roll(tokens, -1, 1), 0).astype(np.int32)
            counted = (index >= begin - 1) & (index < length - 1)
            batch |= {f"{text}tokens": tokens, f"{text}targets": targets, f"{text}weights": counted.astype(np.float32)}
            batch[f"{text}reference"] = np.broadcast_to(-draw.uniform(5, 20, (rows, 1)), shape).astype(np.float32)
        return batch


@pytest.fixture(scope="session")
def random_pairs():
    return RandomPairs(
        Preferences(path="none.jsonl", tokenizer=Bytes(), template=NoTemplate(), batch_size=8, sequence_length=8)
    )


@pytest.fixture(scope="session")
def small():
    return small_config


@pytest.fixture(scope="session")
def drawn_params():
    return random_params
