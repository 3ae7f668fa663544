"""The kernel of blocks, as `attend` chooses it for small requests."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import attend, attention_weights
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from model.kernels.xla.dropped import drop_weights, keys_of_heads
from tests.model.kernels.reference import heads, naive, random_mask, visible_where
from tests.tiers import representatives


def dropped(weights, rate, key):
    """Weights (B, N, T, S) with dropout, which tests/model/kernels/xla/test_dropped.py tests."""
    b, n, t, s = weights.shape
    seen = causal(Coordinates(t), Coordinates(s))
    return drop_weights(weights[:, :, None], rate, keys_of_heads(key, b, n), seen).reshape(weights.shape)


@pytest.mark.parametrize(("n", "kv"), representatives([(4, 4), (4, 2), (6, 2), (4, 1)], (4, 2), (4, 1)))
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attend(n, kv, softcap):
    q, k, v = heads(n, kv)
    mask, scoring = random_mask(2), Scoring(0.4, softcap)
    expected, weights = naive(q, k, v, mask, 0.4, softcap)
    np.testing.assert_allclose(attend(q, k, v, visible_where(mask), scoring), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(attention_weights(q, k, visible_where(mask), scoring), weights, rtol=1e-5, atol=1e-6)


def test_attend_with_one_mask_for_all_rows():
    q, k, v = heads(4, 2)
    mask = random_mask(1)
    expected = naive(q, k, v, mask, 1.0)[0]
    np.testing.assert_allclose(attend(q, k, v, visible_where(mask), Scoring(1.0)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_derivative_is_that_of_the_equation(softcap, rate):
    """Compares with autodiff of softmax, dropout and product written out; one query sees no key at all."""
    q, k, v = heads(6, 2)
    mask, scoring, key = random_mask(2), Scoring(0.4, softcap), jax.random.key(5)
    mask[1, 2] = False

    def plain(q, k, v):
        weights = attention_weights(q, k, visible_where(mask), scoring)
        if rate:
            weights = dropped(weights, rate, key)
        return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, 3, axis=2))

    ours = lambda q, k, v: attend(q, k, v, visible_where(mask), scoring, dropout=rate, dropout_key=key)  # noqa: E731
    (y, pull), (expected, plain_pull) = (jax.vjp(jax.jit(f), q, k, v) for f in (ours, plain))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(pull(jnp.cos(y)), plain_pull(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_sink_takes_part_in_the_softmax_and_has_no_value(rate):
    """Compares values and gradients with an extra key, whose scores are the sinks and whose value is zero."""
    q, k, v = heads(6, 2)
    mask, key = random_mask(2), jax.random.key(5)
    mask[1, 2] = False
    sink = np.array([0.5, -2.0, 9.0, 0.0, -0.3, 40.0], np.float32)

    def plain(q, k, v, sink):
        repeated = jnp.repeat(k, 3, axis=2)
        scores = jnp.where(mask[:, None], 0.4 * jnp.einsum("btnh,bsnh->bnts", q, repeated), -jnp.inf)
        scores = jnp.concatenate([scores, jnp.broadcast_to(sink[None, :, None, None], (2, 6, 4, 1))], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1)[..., :-1]
        if rate:
            weights = dropped(weights, rate, key)
        return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, 3, axis=2))

    def ours(q, k, v, sink):
        return attend(q, k, v, visible_where(mask), Scoring(0.4), sink_N=sink, dropout=rate, dropout_key=key)

    (y, pull), (expected, plain_pull) = jax.vjp(ours, q, k, v, sink), jax.vjp(plain, q, k, v, sink)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert not np.any(y[1, 2])  # the query that sees no key
    for got, want in zip(pull(jnp.cos(y)), plain_pull(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    if not rate:
        weights = attention_weights(q, k, visible_where(mask), Scoring(0.4), sink_N=sink)
        np.testing.assert_allclose(jnp.einsum("bnts,bsnh->btnh", weights, np.repeat(v, 3, 2)), expected, atol=1e-5)


def test_dropout_needs_a_key_and_a_rate():
    q, k, v = heads(2, 2)
    mask, key = random_mask(2), jax.random.key(0)
    plain = attend(q, k, v, visible_where(mask), Scoring(1.0))
    np.testing.assert_array_equal(attend(q, k, v, visible_where(mask), Scoring(1.0), dropout=0.5), plain)
    np.testing.assert_array_equal(attend(q, k, v, visible_where(mask), Scoring(1.0), dropout_key=key), plain)
    assert np.abs(attend(q, k, v, visible_where(mask), Scoring(1.0), dropout=0.5, dropout_key=key) - plain).max() > 0.1


def test_nothing_of_the_size_of_the_weights_is_kept_for_the_backward_pass():
    q, k, v = heads(2, 1, t=7, s=11)
    _, pull = jax.vjp(lambda q, k, v: attend(q, k, v, visible_where(random_mask(1, 7, 11)), Scoring(1.0)), q, k, v)
    sizes = [x.shape for x in jax.tree.leaves(pull) if getattr(x, "dtype", None) == jnp.float32]
    assert sizes
    assert not any(shape[-2:] == (7, 11) for shape in sizes)


def test_huge_scores_stay_finite_and_hidden_keys_weigh_nothing():
    q, k, v = heads(2, 2)
    q, hidden = 1e4 * q, 1e4 * np.ones_like(v)
    mask = np.broadcast_to(np.arange(5) < 3, (2, 4, 5))
    seen = attend(q, k, v, visible_where(mask), Scoring(1.0))
    v[:, 3:] = hidden[:, 3:]
    k[:, 3:] = hidden[:, 3:]
    np.testing.assert_array_equal(attend(q, k, v, visible_where(mask), Scoring(1.0)), seen)
    assert np.isfinite(seen).all()


def test_softmax_is_taken_in_the_reduction_dtype():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in heads(2, 2, s=64, seed=3))
    mask = np.ones((1, 4, 64), bool)
    exact = naive(*(np.asarray(x.astype(jnp.float32)) for x in (q, k, v)), mask, 1.0)[1]
    errors = {}
    for reductions in ("float32", "bfloat16"):
        scoring = Scoring(1.0, reductions=reductions)
        weights = attention_weights(q, k, visible_where(mask), scoring)
        assert attend(q, k, v, visible_where(mask), scoring).dtype == weights.dtype == jnp.bfloat16
        errors[reductions] = np.abs(weights.astype(jnp.float32) - exact)[exact > 1e-3] / exact[exact > 1e-3]
    assert errors["float32"].max() < 0.005  # one rounding of the weights to eight bits
    assert errors["bfloat16"].max() > 0.02


@pytest.mark.parametrize("length", [63, 130, 270])
def test_causal_blocks_equal_the_whole(length):
    """Long causal sequences are computed in blocks of queries: the same values and gradients, fewer products."""
    q, k, v = heads(2, 1, b=1, t=length, s=length, h=4)
    segment_ids = (np.arange(length)[None] >= 100).astype(np.int32)
    in_blocks = causal(Coordinates(length, segment_ids=segment_ids))
    whole_array = visible_where(in_blocks.mask())

    def loss(q, k, v, visibility):
        y = attend(q, k, v, visibility, Scoring(0.4, 3.0))
        return jnp.sum(jnp.sin(y)), y

    def pairs(visibility):
        """Returns the number of query-key pairs that the forward pass scores."""
        text = str(jax.make_jaxpr(lambda q, k, v: attend(q, k, v, visibility, Scoring(0.4)))(q, k, v))
        shapes = re.findall(r":f32\[(?:1,)+2,(\d+),(\d+)\] = dot_general", text)  # a single key head is no axis
        return sum(int(t) * int(s) for t, s in shapes if int(s) != 4)

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    both = (jax.tree.leaves(run(q, k, v, visibility)) for visibility in (whole_array, in_blocks))
    for whole, blocks in zip(*both, strict=True):
        np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-5)
    assert pairs(whole_array) == length**2
    if length < 128:
        assert pairs(in_blocks) == pairs(whole_array)
    else:
        assert pairs(in_blocks) < 0.8 * pairs(whole_array)
