import jax.numpy as jnp
import numpy as np
import pytest

from model.context import Context
from model.recurrent.convolution import convolve

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 7, 3, 2)).astype(np.float32)
FILTER = RNG.standard_normal((4, 3, 2)).astype(np.float32)


def by_hand(x, first):
    """Computes every token from itself and the tokens before it, back to the start of its document."""
    return np.stack([sum(FILTER[j] * x[t - j] for j in range(4) if t - j >= first[t]) for t in range(len(x))])


def test_it_looks_back():
    y, conv_state = convolve(X, FILTER, Context(index_BT=None), None)
    np.testing.assert_allclose(y, [by_hand(x, [0] * 7) for x in X], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(conv_state, X[:, 4:].swapaxes(1, 2))


def test_documents_do_not_meet():
    segment_ids = jnp.asarray([[0, 0, 1, 1, 1, 2, 2], [0] * 7])
    y, _ = convolve(X, FILTER, Context(index_BT=None, segment_ids_BT=segment_ids), None)
    expected = [by_hand(X[0], [0, 0, 2, 2, 2, 5, 5]), by_hand(X[1], [0] * 7)]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 4), (2, 1, 4)], ids=str)
def test_a_tail_goes_on(sizes):
    conv_state, parts, begin = jnp.zeros((2, 3, 3, 2)), [], 0
    for size in sizes:
        y, conv_state = convolve(X[:, begin : begin + size], FILTER, Context(index_BT=None), conv_state)
        parts.append(y)
        begin += size
    whole, last = convolve(X, FILTER, Context(index_BT=None), None)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(conv_state, last)


def test_a_tail_ends_with_the_last_real_token():
    before = jnp.asarray(RNG.standard_normal((2, 3, 3, 2)), jnp.float32)
    real = jnp.arange(7) < np.array([[1], [5]])
    _, conv_state = convolve(X, FILTER, Context(index_BT=None, real_BT=real), before)
    np.testing.assert_array_equal(conv_state[0], jnp.concatenate([before[0][:, 1:], X[0, :1].swapaxes(0, 1)], axis=1))
    np.testing.assert_array_equal(conv_state[1], X[1, 2:5].swapaxes(0, 1))
