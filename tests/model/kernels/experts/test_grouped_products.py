"""Grouped products: every kernel that runs here against a loop over groups, and the choice among kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.kernels import choose
from model.kernels.experts import KERNELS
from model.kernels.experts.grouped_products import GroupedRequest, RaggedDot
from model.kernels.experts.megablox import Megablox
from model.kernels.experts.tiles import Tiles
from model.parameters.mixed_precision import grouped_matmul

SIZES = np.array([200, 0, 130, 70], np.int32)  # ends inside tiles of 128 rows; the last 112 rows are in no group
M, D, F = 512, 128, 256


def loop(x, w, towards):
    """The products, and both gradients, in float64."""
    y, dx, dw = np.zeros((M, F)), np.zeros((M, D)), np.zeros(w.shape)
    for group, stop in enumerate(np.cumsum(SIZES)):
        rows = slice(stop - SIZES[group], stop)
        y[rows], dx[rows], dw[group] = x[rows] @ w[group], towards[rows] @ w[group].T, x[rows].T @ towards[rows]
    return y, dx, dw


@pytest.mark.parametrize(
    "kernel", [RaggedDot(), Tiles(), Tiles(rows=16), Megablox(interpret=True, rows=128)], ids=lambda kernel: kernel.name
)
@pytest.mark.parametrize("compute", ["float32", pytest.param("bfloat16", marks=pytest.mark.sweep)])
def test_products_and_gradients_are_those_of_a_loop(kernel, compute):
    draw = np.random.default_rng(0)
    x, w, towards = (draw.normal(size=shape) for shape in ((M, D), (4, D, F), (M, F)))
    x, towards = (np.asarray(jnp.asarray(a, compute), np.float64) for a in (x, towards))
    want = loop(x, np.asarray(jnp.asarray(w, compute), np.float64), towards)

    def both(x, w, sizes, towards):
        y, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes, kernel), x, w)
        return (y, *pull(towards))

    arrays = jnp.asarray(x, compute), jnp.asarray(w, jnp.float32), jnp.asarray(SIZES), jnp.asarray(towards, compute)
    got = jax.jit(both)(*arrays)
    assert [a.dtype for a in got] == [jnp.dtype(compute), jnp.dtype(compute), jnp.float32]
    for one, other in zip(got, want, strict=True):
        # One rounding of the result: 2^-9 in bfloat16. Sums of up to 256 products in float32: about 2^-20 of the largest.
        rounding = 2.0**-8 if one.dtype == jnp.bfloat16 else 0
        np.testing.assert_allclose(
            np.asarray(one, np.float64), other, rtol=rounding, atol=2.0**-18 * np.abs(other).max()
        )


def request(rows=512, dtype=jnp.bfloat16, width=256, **asked):
    x, w = jax.ShapeDtypeStruct((rows, 128), dtype), jax.ShapeDtypeStruct((4, 128, width), jnp.float32)
    return GroupedRequest(x=x, w=w, **asked)


def test_the_choice():
    assert choose(request(platform="tpu")).kernel == Megablox()
    assert str(choose(request(platform="cpu"))) == "tiles"
    choice = choose(request(platform="tpu", rows=100))
    assert (choice.kernel, str(choice)) == (RaggedDot(), "ragged_dot (not megablox: 100 rows are no multiple of 128)")
    with pytest.raises(UserError, match="no kernel for experts supports this request on a cpu: megablox: "):
        choose(request(), (Megablox(),))
    assert [kernel.name for kernel in KERNELS] == ["tokamax", "megablox", "tiles", "ragged_dot"]
