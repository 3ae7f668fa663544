import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.dropout import Dropout, drop


def test_drop_zeroes_its_share_and_keeps_the_mean():
    size, rate = 100_000, 0.3
    dropped = np.asarray(drop(jnp.full(size, 2.0), rate, jax.random.key(0)))
    kept = dropped != 0
    deviation = np.sqrt(rate * (1 - rate) / size)
    assert abs(kept.mean() - 0.7) < 4 * deviation
    np.testing.assert_allclose(dropped[kept], 2 / 0.7, rtol=1e-6)
    assert abs(dropped.mean() - 2) < 4 * 2 / 0.7 * deviation


def test_drop_is_a_function_of_its_key():
    x = jnp.ones((8, 8))
    one = drop(x, 0.5, jax.random.key(1))
    np.testing.assert_array_equal(one, drop(x, 0.5, jax.random.key(1)))
    assert (one != drop(x, 0.5, jax.random.key(2))).any()


def test_drop_keeps_the_dtype_and_loses_infinities():
    x = jnp.asarray([1.0, jnp.inf] * 50, jnp.bfloat16)
    dropped = drop(x, 0.5, jax.random.key(0))
    assert dropped.dtype == jnp.bfloat16
    assert not jnp.isnan(dropped).any()


TAPS = ["embedding", "attention_weights", "mixer_heads", "mixer_output", "ffn_output", "block_output"]


@pytest.fixture(scope="module")
def traced(small, drawn, run, tokens):
    """Taps of a model with one rate at a time, in training with a key and in evaluation without."""
    params = drawn(small())

    @functools.cache
    def taps(key, scan_layers=True, **rates):
        config = small(dropout=Dropout(**rates), scan_layers=scan_layers)
        options = {} if key is None else {"dropout_key": jax.random.key(key)}
        return jax.tree.map(np.asarray, run(config, params, tokens, taps=TAPS, **options)[2])

    return taps


@pytest.fixture(scope="module")
def plain(traced):
    return traced(None)


def test_the_embedding_rate(traced, plain):
    dropped, whole = traced(0, embedding=0.5)["embedding"], plain["embedding"]
    kept = dropped != 0
    assert abs(kept.mean() - 0.5) < 4 * np.sqrt(0.25 / kept.size)
    np.testing.assert_allclose(dropped[kept], 2 * whole[kept], rtol=1e-6)


def test_the_attention_rate(traced, plain):
    got = traced(0, attention=0.5)
    # The tap shows the weights before dropout; the first layer's are those of evaluation, what they mix is not.
    np.testing.assert_allclose(got["attention_weights"][0], plain["attention_weights"][0], atol=1e-6)
    heads, whole = got["mixer_heads"][0], plain["mixer_heads"][0]
    first = heads[:, 0]  # the first token sees itself alone: each head is doubled or gone
    gone = (first == 0).all(-1)
    assert 0 < gone.sum() < gone.size
    np.testing.assert_allclose(first[~gone], 2 * whole[:, 0][~gone], rtol=1e-5)


def test_the_residual_rate(traced, plain):
    got = traced(0, residual=0.5)
    np.testing.assert_array_equal(got["embedding"], plain["embedding"])
    np.testing.assert_allclose(got["mixer_output"][0], plain["mixer_output"][0], rtol=1e-5, atol=1e-6)
    # What the first block adds to the stream: each output is doubled or gone, independently.
    added = got["block_output"][0] - got["embedding"]
    one, other = 2 * got["mixer_output"][0], 2 * got["ffn_output"][0]
    ways = np.stack([0 * one, one, other, one + other])
    near = np.abs(ways - added) < 1e-4
    assert near.any(0).all()
    shares = near.reshape(4, -1).mean(1)
    assert (np.abs(shares - 0.25) < 0.1).all(), shares


def test_layers_and_sublayers_drop_differently(traced):
    got = traced(0, residual=0.5)
    gone = [
        np.isclose(x, 0, atol=1e-6)
        for x in (got["block_output"][0] - got["embedding"], np.diff(got["block_output"], axis=0)[0])
    ]
    assert gone[0].any()
    assert gone[1].any()
    assert (gone[0] != gone[1]).any()


@pytest.mark.parametrize("place", [field.name for field in dataclasses.fields(Dropout)])
def test_dropout_hangs_on_the_key_and_is_off_without_one(place, traced, plain):
    rates = {place: 0.5}
    one, again, other = (traced(key, **rates)["block_output"] for key in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_array_equal(traced(None, **rates)["block_output"], plain["block_output"])


def test_layers_written_out_drop_the_same(traced):
    one, other = (traced(0, scan_layers=scan, attention=0.5)["block_output"] for scan in (True, False))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_key_without_a_rate_changes_nothing(traced, plain):
    np.testing.assert_array_equal(traced(0)["block_output"], plain["block_output"])
