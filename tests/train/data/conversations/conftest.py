"""Tokenizers and templates in the shapes of published ones, and conversations of a few words."""

import json

import pytest

from tests.parity.alignment.masks import make_tokenizer
from train.data.config import HuggingFace
from train.data.tokenizers.huggingface import HuggingFaceTokenizer


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory):
    """The files of two tokenizers: with words, and with merges that cross the borders of answers."""
    return {words: make_tokenizer(tmp_path_factory.mktemp("tokenizer"), words) for words in (True, False)}


@pytest.fixture(scope="session")
def tokenizers(tokenizer_files):
    return {
        words: HuggingFaceTokenizer.load(
            HuggingFace(path=str(path), begin_of_document="<s>", end_of_document="</s>"), path
        )
        for words, path in tokenizer_files.items()
    }


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows into a .jsonl file and returns its path."""

    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return path

    return write
