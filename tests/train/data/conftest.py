"""Small texts and the datasets made of them, shared by the tests of the data side."""

import dataclasses
import pathlib
import random

import pytest

from train.data import Bytes, Characters, Concatenate, Data, Tail, WholeFiles, open_dataset, prepare

WORDS = ["the", "of", "a", "function", "returns", "value", "list", "None", "self", "import", "while", "error", "token"]


def prose(seed: int, size: int) -> str:
    """About `size` characters of lines of words, never the same for two seeds."""
    chosen = random.Random(seed)
    lines = []
    while sum(map(len, lines)) + len(lines) < size:
        lines.append(" ".join(chosen.choices(WORDS, k=chosen.randint(3, 9))) + f" {chosen.randint(0, 10**6)}")
    return "\n".join(lines)[:size]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> pathlib.Path:
    """Files of very different lengths; one is longer than two records."""
    folder = tmp_path_factory.mktemp("corpus")
    sizes = [30, 700, 90, 20_000, 5, 1_200, 64, 65, 400, 1, 250, 900, *range(500, 1200, 40)]
    for k, size in enumerate(sizes):
        (folder / f"file{k:02d}.txt").write_text(prose(k, size))
    return folder


@pytest.fixture(scope="session")
def data(corpus) -> Data:
    """Options over the corpus: bytes with an end of document, sequences of 32."""
    return Data(
        path=str(corpus),
        tokenizer=Bytes(),
        validation=WholeFiles(fraction=0.1),
        batch_size=8,
        sequence_length=32,
        prefetch=4,
    )


@pytest.fixture(scope="session")
def dataset(data, tmp_path_factory):
    """The corpus as bytes, with an end of document."""
    return open_dataset(prepare(data, tmp_path_factory.mktemp("bytes")))


@pytest.fixture(scope="session")
def endless(data, tmp_path_factory):
    """The corpus as characters without an end of document, and its options."""
    option = dataclasses.replace(data, tokenizer=Characters(), packing=Concatenate(order="files"), validation=Tail())
    return open_dataset(prepare(option, tmp_path_factory.mktemp("characters"))), option
