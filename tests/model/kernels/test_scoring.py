"""From products to scores: the order of soft-cap, bias and mask."""

import jax
import jax.numpy as jnp
import numpy as np

from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal


def ramp(queries, keys):
    """A bias of two heads: the key's position, times the head's number."""
    return jnp.arange(1, 3)[:, None, None] * jnp.broadcast_to(keys.positions(), (queries.count, keys.count))[None, None]


def test_the_cap_leaves_the_bias_whole_and_the_mask_comes_last():
    products = np.random.default_rng(0).normal(0, 5, (1, 1, 2, 3, 3)).astype(np.float32)
    got = Scoring(1.0, softcap=2.0).scores(products, causal(Coordinates(3)), ramp)
    expected = 2 * np.tanh(products / 2) + np.array([1, 2])[:, None, None] * np.arange(3)
    hidden = np.arange(3)[:, None] < np.arange(3)
    expected = np.where(hidden, np.finfo(np.float32).min, expected)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_what_is_not_asked_leaves_no_operation():
    products = jnp.ones((1, 1, 2, 3, 3))
    everything = bidirectional(Coordinates(3))
    program = jax.make_jaxpr(lambda x: Scoring(1.0).scores(x, everything, None))(products)
    assert not program.eqns


def test_query_heads_side_by_side_share_a_key_head():
    q = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    grouped = Scoring(0.5).scale_and_group(q, 2)
    assert grouped.shape == (2, 2, 3, 5, 4)
    for n in range(6):
        np.testing.assert_allclose(grouped[:, n // 3, n % 3], 0.5 * q[:, :, n], rtol=1e-6)


def test_products_are_summed_in_the_reduction_dtype():
    q, k = jnp.ones((1, 1, 1, 1, 512), jnp.bfloat16), jnp.full((1, 1, 1, 512), 1.0078125, jnp.bfloat16)
    assert Scoring(1.0).products(q, k).dtype == jnp.float32
    assert float(Scoring(1.0).products(q, k)[0, 0, 0, 0, 0]) == 516.0
    assert Scoring(1.0, reductions="bfloat16").products(q, k).dtype == jnp.bfloat16
