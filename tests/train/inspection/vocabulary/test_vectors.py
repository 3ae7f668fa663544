"""Vectors of tokens, and the tokens of words."""

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.vocabulary.vectors import token_of_word, tokens_of_words, unit, vectors_of
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def test_tables(run):
    found = vectors_of(run)
    assert found.shape == (257, 32)
    np.testing.assert_array_equal(vectors_of(run, "unembedding"), found)  # they are tied
    np.testing.assert_allclose(np.linalg.norm(unit(found), axis=1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="--table='embeddings': expected embedding or unembedding; did you mean"):
        vectors_of(run, "embeddings")


def test_words_of_one_token(run):
    assert tokens_of_words(run, ["a", "b"]) == {"a": 97, "b": 98}
    assert token_of_word(run, "ab") is None
    with pytest.raises(UserError, match=r"--words: 'ab' is 2 tokens of this tokenizer \('a', 'b'\)"):
        tokens_of_words(run, ["a", "ab"])
    with pytest.raises(UserError, match="--words is empty; give words"):
        tokens_of_words(run, [])
    with pytest.raises(UserError, match="--words has an empty word"):
        tokens_of_words(run, ["a", " "])
