"""A text as tokens: the mark before it, long texts, texts without tokens."""

import dataclasses

import pytest

from model.errors import UserError
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.inspection.text import read, token_texts


class Run:
    def __init__(self, experiment, tokenizer):
        self.experiment, self.tokenizer = experiment, tokenizer


@pytest.fixture
def run(tiny_experiment):
    return Run(tiny_experiment(), BytesTokenizer(Bytes()))


def test_a_mark_comes_first_and_each_token_has_a_text(run):
    found = read(run, "a é")
    assert found.ids.tolist() == [256, *"a é".encode()]
    assert found.texts == ("<end>", "a", " ", "\ufffd", "\ufffd")
    assert (found.begins, found.notes, len(found)) == (1, (), 5)


def test_of_a_long_text_the_first_tokens_are_taken_and_it_is_said(run):
    assert len(read(run, "a" * 31)) == 32
    found = read(run, "a" * 32)
    assert len(found) == 32
    assert "33 tokens; these are its first 32: the model's context" in found.notes[0]
    assert "these are its first 8: the page" in read(run, "a" * 32, most=8).notes[0]


def test_texts_without_tokens_are_refused(run):
    with pytest.raises(UserError, match="--text: the text has 0 tokens, and this needs a token"):
        read(run, "")
    with pytest.raises(UserError, match="--clean: the text has 1 tokens, and this needs 5 tokens"):
        read(run, "a", least=5, flag="clean")
    with pytest.raises(UserError, match="surrogate"):
        read(run, "\ud83d")
    letters = dataclasses.replace(Bytes(), end_of_document=False)
    assert read(Run(run.experiment, BytesTokenizer(letters)), "a").ids.tolist() == [97]


def test_marks_have_names():
    assert token_texts(BytesTokenizer(Bytes()), [256, 97]) == ("<end>", "a")
