"""Small texts and datasets made of them, shared by the tests of train/data."""

import dataclasses
import pathlib
import random
import sys

import pytest
from hypothesis import strategies as st

from train.data import (
    BestFit,
    Bytes,
    Characters,
    Concatenate,
    Data,
    HeldOutDocuments,
    StreamDecoder,
    Tail,
    open_dataset,
    prepare,
)

WORDS = ["the", "of", "a", "function", "returns", "value", "list", "None", "self", "import", "while", "error", "token"]


def prose(seed: int, size: int) -> str:
    """About `size` characters of lines of words, never the same for two seeds."""
    chosen = random.Random(seed)
    lines = []
    while sum(map(len, lines)) + len(lines) < size:
        lines.append(" ".join(chosen.choices(WORDS, k=chosen.randint(3, 9))) + f" {chosen.randint(0, 10**6)}")
    return "\n".join(lines)[:size]


# Texts that prefixes, normalizers, word splitters and merges treat differently near a cut.
BITS = [
    *("a", "the ", " of", "list", "  ", " ", "\u2581", "\n", "\n\n", "\t", "\x00", "\u00e9", "e", "\u0301", "\u2460"),
    *("\uff76", "\uff9e", "\u6cb3", "\u8fb9", "<s>", "</s>", "<t>", " <t>", "\u3000", "\u200d", "\U0001f642", "12"),
    *(".", ",", "'s", "\u0d4e", "\u0120", "\u00ad", "\ufeff", "a b", "<0x41>", "self\u2581", "\ufffd"),
]
TEXTS = st.lists(st.sampled_from(BITS), max_size=40).map("".join)
PACKINGS = [Concatenate(), Concatenate(order="files", random_offset=False), BestFit()]
PART = 8  # characters in a part, where texts are cut in a test


def ids_and_groups(count, bytes_first):
    """Ids of all kinds, many of them bytes, valid UTF-8 and not; and how many are pushed at a time."""
    spelt = st.sampled_from(["\u6cb3", "\u00e9", "\U0001f642", "a"]).map(
        lambda c: [bytes_first + b for b in c.encode()]
    )
    any_byte = st.integers(bytes_first, min(bytes_first + 255, count - 1)).map(lambda i: [i])
    pieces = st.one_of(st.integers(0, count - 1).map(lambda i: [i]), spelt, any_byte)
    ids = st.lists(pieces, max_size=12).map(lambda parts: [i for part in parts for i in part])
    return st.tuples(ids, st.lists(st.integers(1, 4), min_size=48, max_size=48))


def streamed(tokenizer, ids, groups):
    """The joined text that a stream returns for ids that are pushed in groups of these sizes."""
    stream, shown = StreamDecoder(tokenizer), ""
    for size in groups:
        shown += stream.push(ids[:size])
        ids = ids[size:]
    assert not len(ids)
    return shown + stream.flush()


def contents(folder):
    """The files of a folder, by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")}


def change(data, **fields):
    """The options with some fields changed."""
    return dataclasses.replace(data, **fields)


def epoch(batches):
    """The rows of the first epoch, and no more."""
    (rows,) = batches.rows_per_epoch
    size = batches.data.batch_size
    for n in range(-(-rows // size)):
        batch = batches.rows(n, range(min(size, rows - n * size)))
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


@pytest.fixture
def small_shards(monkeypatch):
    """Several shards and several processes for a corpus of kilobytes."""
    monkeypatch.setattr(sys.modules[prepare.__module__], "MIN_SHARD_BYTES", 4000)
    monkeypatch.setattr(sys.modules[prepare.__module__], "BYTES_WORTH_A_PROCESS", 1)


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
        validation=HeldOutDocuments(fraction=0.1),
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
