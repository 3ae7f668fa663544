"""Scores of head roles against loops, and on heads that have a role by construction."""

import jax
import numpy as np
import pytest

from model.errors import UserError
from tests.train.inspection.models import FAMILIES, subject
from train.evaluation.probes.interface import Reader
from train.inspection.attention.scores import OFFSET, ROLES, measure, patterns, repeated_tokens, score

READER = Reader(vocab_size=50, context_length=16, begin=49, end=49)


def test_patterns_are_those_of_loops():
    tokens = np.array([[3, 1, 3, 3, 2, 1], [0, 0, 0, 1, 2, 0]])
    found = jax.device_get(jax.jit(patterns)(tokens))
    for row, x in enumerate(tokens):
        for t in range(6):
            for s in range(6):
                expected = {
                    "previous_token": s == t - 1,
                    "duplicate_token": s < t and x[s] == x[t],
                    "induction": s >= 1 and s - 1 < t and x[s - 1] == x[t],
                }
                assert {name: bool(pattern[row, t, s]) for name, pattern in found.items()} == expected, (row, t, s)


def test_heads_that_have_a_role_have_its_score():
    repeated = repeated_tokens(READER, rows=2, half=6)
    tokens, length = repeated.tokens_BT, repeated.tokens_BT.shape[1]
    assert tokens.shape == (2, 13)
    assert (tokens[:, 1:7] == tokens[:, 7:]).all()
    assert all(len(set(row[1:7])) == 6 for row in tokens)
    assert (tokens[:, 0] == 49).all()
    heads = np.zeros((2, 5, length, length), np.float32)
    for t in range(length):
        heads[:, 0, t, max(t - 1, 0)] = 1  # previous token
        heads[:, 1, t, t - 6 if t >= 7 else 0] = 1  # duplicate token
        heads[:, 2, t, t - 5 if t >= 7 else 0] = 1  # induction
        heads[:, 3, t, 0] = 1  # first token
        heads[:, 4, t, t - 3 if t >= 7 else 0] = 0.7  # three after the earlier copy
    found = jax.device_get(jax.jit(score, static_argnums=(2, 3))(heads, tokens, repeated.half, repeated.begins))
    assert set(found) == {*ROLES, OFFSET}
    np.testing.assert_allclose(found["previous_token"][0], 12 / 13, rtol=1e-6)
    np.testing.assert_allclose(found["duplicate_token"], [0, 6 / 13, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found["induction"][2], 6 / 13, rtol=1e-6)
    np.testing.assert_allclose(found["repeated"], [0, 0, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found["copying"], [0, 0, 1, 0, 0.7], atol=1e-6)
    assert found[OFFSET][[2, 4]].tolist() == [1, 3]
    assert found["first_token"][3] == 1


def test_scores_of_a_model_name_layers_and_heads():
    found = measure(subject(FAMILIES["llama"]), repeated_tokens(READER, rows=1))
    for role in ROLES:
        assert {n: x.shape for n, x in found.by_role[role].items()} == {0: (4,), 1: (4,)}
    assert {n: x.shape for n, x in found.offsets.items()} == {0: (4,), 1: (4,)}
    value, layer, head = found.best("induction")
    assert value == max(x.max() for x in found.by_role["induction"].values())
    assert found.by_role["induction"][layer][head] == np.float32(value)


def test_halves_that_do_not_fit_are_refused():
    for half in (3, 8):
        with pytest.raises(UserError, match="holds halves of 7 at most"):
            repeated_tokens(READER, half=half)
    with pytest.raises(UserError, match="--sequences of 1 or more"):
        repeated_tokens(READER, rows=0)
    assert repeated_tokens(READER).half == 7
