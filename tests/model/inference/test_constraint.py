"""Masks of constraints, and texts that follow them."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.inference.constraint import ALL, Follower, is_allowed, keep_allowed, num_words
from tests.model.inference.constraints import Steps, Texts, bits, set_bits

TEXTS = Texts(((3, 40, 5), (3, 40), (3, 41, 41, 7), (60,)))


@pytest.mark.parametrize("vocab_size", [5, 32, 33, 61])
def test_masked_logits_are_the_plain_ones_of_a_table(vocab_size):
    rng = np.random.default_rng(vocab_size)
    logits, table = rng.normal(size=(4, vocab_size)).astype(np.float32), rng.integers(0, 2, (4, vocab_size)) == 1
    table[3] = True
    words = np.zeros((4, num_words(vocab_size)), np.uint32)
    for row, allowed in zip(words, table, strict=True):
        set_bits(row, np.flatnonzero(allowed))
    words[3] = ALL
    found = np.asarray(keep_allowed(jnp.asarray(logits), jnp.asarray(words)))
    np.testing.assert_array_equal(found, np.where(table, logits, -np.inf))
    assert [is_allowed(words[0], token) for token in range(vocab_size)] == table[0].tolist()


def test_a_text_ends_where_the_constraint_says():
    follower = Follower(TEXTS, (9, 41, 1000), 61)  # 41 is a token of a text too
    assert bits(follower.allowed_W) == [3, 60]
    follower.accept(3)
    assert bits(follower.allowed_W) == [40, 41]
    follower.accept(40)
    assert bits(follower.allowed_W) == [5, 9, 41]  # the text may go on, or end
    assert follower.ended_by is None
    follower.accept(5)
    assert follower.ended_by == "constraint"


def test_a_token_that_may_not_come_is_a_dead_end():
    follower = Follower(TEXTS, (), 61)
    follower.accept(4)
    assert follower.ended_by == "dead_end"
    follower = Follower(Steps(61, least=3, vocab_size=2), (), 61)
    follower.accept(1)
    assert follower.ended_by == "dead_end"  # it should go on with 2, which the vocabulary lacks


def test_guesses_are_taken_as_far_as_they_leave_the_text_open():
    follower = Follower(TEXTS, (9,), 61)
    after = lambda *guesses: [bits(mask) for mask in follower.after(guesses)]  # noqa: E731
    assert after() == after(4) == after(60) == []
    assert after(3, 41, 41, 7) == [[40, 41], [41], [7]]
    assert after(3, 40, 9, 5) == [[40, 41], [5, 9]]
    assert after(3, 40, 5) == [[40, 41], [5, 9]]
    assert bits(follower.allowed_W) == [3, 60]  # nothing was accepted
    assert follower.ended_by is None


@pytest.mark.parametrize(("texts", "message"), [(((),), "only the empty text"), ((), "no text that the vocabulary")])
def test_a_constraint_without_a_text_is_refused(texts, message):
    with pytest.raises(UserError, match=f"request.constraint: it allows {message}"):
        Follower(Texts(texts), (9,), 61)
