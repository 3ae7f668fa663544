"""The filters against plain NumPy, token by token; every field of Sampling changes what is drawn."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.inference.sampling import Sampling, filter_logits, keep_top, likeliest_token, rules_of_rows, sample_token
from model.options.tree import check

V = 50
OFF = {"temperature": None, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None}


def naive(logits, seen, temperature=None, top_k=None, top_p=None, min_p=None, repetition_penalty=None):
    """The definitions, written out with sorting."""
    logits = np.array(logits, np.float64)
    if repetition_penalty is not None:
        for i in np.flatnonzero(seen):
            logits[i] = logits[i] / repetition_penalty if logits[i] > 0 else logits[i] * repetition_penalty
    logits = logits / (1.0 if temperature is None else temperature)
    order = np.argsort(-logits, kind="stable")
    kept = list(order if top_k is None else order[:top_k])
    if top_p is not None:
        p = np.exp(logits[kept] - logits[kept].max())
        p /= p.sum()
        n = 0
        while n < len(kept) and p[:n].sum() < top_p:
            n += 1
        kept = kept[:n]
    if min_p is not None:
        p = np.exp(logits[kept] - logits[kept].max())
        kept = [i for i, q in zip(kept, p, strict=True) if q >= min_p]
    out = np.full(len(logits), -np.inf)
    out[kept] = logits[kept]
    return out


VALUES = {"temperature": [0.7, 1.4], "top_k": [1, 7, V, 10 * V], "top_p": [0.3, 0.9], "min_p": [0.2]}
VALUES |= {"repetition_penalty": [0.5, 1.5]}
SETS = [["top_k"], ["top_p"], ["min_p"], ["repetition_penalty"], ["top_k", "top_p"], list(VALUES)]
COMBINATIONS = [
    OFF | dict(zip(names, values, strict=True))
    for names in SETS
    for values in itertools.product(*(VALUES[name] for name in names))
]
FILTERED = jax.jit(filter_logits)  # compiled once for each set of filters


@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_filters_are_what_the_papers_define(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(4, V))).astype(np.float32)
    seen = rng.random((4, V)) < 0.3
    for rules in COMBINATIONS:
        got = np.asarray(FILTERED(rules, logits, seen))
        expected = np.stack([naive(row, s, **rules) for row, s in zip(logits, seen, strict=True)])
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected), err_msg=str(rules))
        np.testing.assert_allclose(got, expected, rtol=1e-5, err_msg=str(rules))


def test_no_filter_leaves_the_logits_alone():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(2, V)), jnp.float32)
    np.testing.assert_array_equal(filter_logits(OFF, logits), logits)


def test_tied_tokens_stay_or_go_together():
    logits = jnp.asarray([[1.0, 3.0, 1.0, 0.0, 1.0]])
    kept = np.isfinite(keep_top(logits, jnp.ones((1, 5), jnp.int32), 2))
    np.testing.assert_array_equal(kept, [[True, True, True, False, True]])


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.125, 0.125]]))
    for p, kept in ((0.01, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 4), (0.9999, 4)):
        assert int(np.isfinite(FILTERED(OFF | {"top_p": p}, logits)).sum()) == kept, p


def test_infinite_and_negative_logits_keep_their_order():
    logits = jnp.asarray([[-jnp.inf, -5.0, -0.0, 3.0, -1e-30, 1e-30]])
    kept = np.isfinite(keep_top(logits, jnp.ones((1, 6), jnp.int32), 2))
    np.testing.assert_array_equal(kept, [[False, False, False, True, False, True]])


def test_draws_follow_the_filtered_distribution():
    logits = jnp.asarray([0.0, 1.0, 2.0, -1.0])
    rows = 8000
    keys = jax.random.split(jax.random.key(0), rows)
    drawn = np.asarray(sample_token(OFF | {"temperature": 1.0, "top_k": 3}, jnp.tile(logits, (rows, 1)), keys, None))
    expected = np.array([1, np.e, np.e**2, 0]) / (1 + np.e + np.e**2)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / rows, expected, atol=0.02)


def test_temperature_zero_takes_the_likeliest_whatever_the_key():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(6, V)), jnp.float32)
    rules = Sampling(temperature=0).rules()
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 6)
        np.testing.assert_array_equal(sample_token(rules, logits, keys, None), jnp.argmax(logits, axis=-1))


def test_values_that_change_nothing_compile_nothing():
    neutral = Sampling(temperature=1.0, top_p=1.0, min_p=0.0, repetition_penalty=1.0).rules()
    assert neutral == OFF | {"temperature": 1.0}


def test_rules_cover_every_field_that_chooses_tokens():
    assert set(Sampling().rules()) == {f.name for f in dataclasses.fields(Sampling)} - {"max_tokens", "seed"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature: must be 0"),
        ({"temperature": float("nan")}, "temperature: expected a finite number"),
        ({"top_k": 0}, "top_k: must be at least 1"),
        ({"top_p": 0.0}, "top_p: must be above 0"),
        ({"top_p": 1.1}, "top_p: must be above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p: must be from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: must be above 0"),
        ({"seed": -1}, "seed: must be from 0"),
        ({"temperature": 0, "top_p": 0.9}, "top_p: has nothing to choose from at temperature=0"),
        ({"temperature": 0, "top_k": 5}, "top_k: has nothing to choose from"),
        ({"temperature": 0, "min_p": 0.1}, "min_p: has nothing to choose from"),
        ({"top_k": 2.5}, "top_k: expected int or None"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(UserError, match="(?s).*" + message):
        check(Sampling(**fields), "sampling")


def test_rows_with_rules_of_their_own_are_filtered_and_drawn_as_alone():
    """To the bit, whichever filters the other rows need; and as one set of rules for all rows gives them."""
    options = [
        Sampling(temperature=0),
        Sampling(),
        Sampling(temperature=0.7, top_k=3),
        Sampling(top_p=0.6, min_p=0.1),
        Sampling(temperature=1.3, top_k=20, top_p=0.9, repetition_penalty=1.4),
        Sampling(temperature=0, repetition_penalty=1.4),
    ]
    rng, rows = np.random.default_rng(3), len(options)
    logits = rng.normal(size=(rows, V)).astype(np.float32)
    seen = rng.random((rows, V)) < 0.3
    keys = jax.random.split(jax.random.key(0), rows)
    draw = jax.jit(sample_token)
    rules = rules_of_rows(options)
    filtered, drawn = np.asarray(FILTERED(rules, logits, seen)), np.asarray(draw(rules, logits, keys, seen))
    for i, sampling in enumerate(options):
        row = slice(i, i + 1)
        same_rules = FILTERED(rules_of_rows([sampling] * rows), logits, seen)
        np.testing.assert_array_equal(filtered[row], np.asarray(same_rules)[row])
        # Another program, which may divide by a product in place of dividing twice.
        np.testing.assert_allclose(filtered[row], FILTERED(sampling.rules(), logits[row], seen[row]), rtol=1e-6)
        assert drawn[i] == draw(sampling.rules(), logits[row], keys[row], seen[row])[0]


def test_the_likeliest_token_is_the_first_of_the_largest():
    logits = np.random.default_rng(0).integers(-3, 4, (50, 7)).astype(np.float32)
    logits[0], logits[1] = -np.inf, [-np.inf, 2, -np.inf, 2, 1, 0, np.inf]
    np.testing.assert_array_equal(likeliest_token(logits), np.argmax(logits, axis=-1))
    assert 0 <= int(likeliest_token(np.full(7, np.nan, np.float32))) < 7
