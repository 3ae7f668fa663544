"""The vectors of tokens: the rows of the embedding table, or the columns of the unembedding."""

from collections.abc import Sequence

import jax
import numpy as np

from model.errors import UserError
from model.options.words import nearest
from model.transformer import unembedding
from train.inspection.subject import Subject
from train.inspection.text import encode
from train.run.loading import LoadedRun

TABLES = ("embedding", "unembedding")


def vectors_of(run: LoadedRun, table: str = "embedding") -> np.ndarray:
    """The vectors of all tokens, float32 (V, D). Raises UserError for another table than the two."""
    if table not in TABLES:
        raise UserError(f"--table={table[:40]!r}: expected embedding or unembedding; {nearest(table, TABLES)}")
    config = run.experiment.model
    if table == "embedding":
        found = jax.device_get(run.params["embedding"]["table"])
        if not isinstance(found, np.ndarray):
            raise UserError("the embedding table of this model is quantised; look at the model before that")
        return np.asarray(found, np.float32)
    subject = Subject.of(run, reads_text=False)
    result: np.ndarray = subject.compiled(lambda params: unembedding(config, params).w_DV.T.astype("float32"))()
    return result


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of Euclidean length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def token_of_word(run: LoadedRun, word: str, flag: str = "words") -> int | None:
    """The token of a word, with a space before it or without; None for a word of several tokens.

    In a text most words come after a space, so that form is asked for first.
    """
    for form in (f" {word}", word):
        ids = encode(run.tokenizer, form, flag)
        if len(ids) == 1:
            return int(ids[0])
    return None


def tokens_of_words(run: LoadedRun, words: Sequence[str], flag: str = "words") -> dict[str, int]:
    """The tokens of words. Raises UserError for a word of several tokens, with these, and for no word."""
    if not words:
        raise UserError(f"--{flag} is empty; give words, such as self,return")
    found = {}
    for word in words:
        if not word.strip():
            raise UserError(f"--{flag} has an empty word; leave it out")
        token = token_of_word(run, word, flag)
        if token is None:
            ids = encode(run.tokenizer, word, flag)
            pieces = ", ".join(repr(run.tokenizer.decode([int(i)])) for i in ids[:8]) or "none"
            raise UserError(
                f"--{flag}: {word[:40]!r} is {len(ids)} tokens of this tokenizer ({pieces}), and only a token has a "
                "vector; take another word"
            )
        found[word] = token
    return found
