"""Tiles of rows: cut as a loop over groups cuts them, each multiplied once, with no array of rows times experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels.experts.grouped_products import RAGGED_DOT
from model.kernels.experts.tiles import Tiles, _plan

GROUPS = [[5, 0, 11, 3], [0, 0, 19, 0], [1, 1, 1, 1], [0, 0, 0, 0], [16, 3, 0, 0]]


@pytest.mark.parametrize("sizes", GROUPS, ids=str)
def test_groups_are_cut_as_by_a_loop(sizes):
    tile, expected, start = 4, [], 0
    for group, size in enumerate(sizes):
        expected += [(group, start + first) for first in range(0, size, tile)]
        start += size
    plan = _plan(jnp.array(sizes), num_rows=19, tile=tile)
    count = int(plan.num_tiles)
    assert list(zip(plan.group_N[:count].tolist(), plan.first_N[:count].tolist(), strict=True)) == expected
    assert plan.ends_E.tolist() == np.cumsum(sizes).tolist()


@pytest.mark.parametrize("sizes", GROUPS, ids=str)
def test_rows_beyond_a_group_are_those_of_the_next(sizes):
    """Whole numbers, so that sums are exact: every tile but the last of a group ends in it."""
    draw = np.random.default_rng(0)
    x, w = draw.integers(-4, 5, (19, 6)).astype(np.float32), draw.integers(-4, 5, (4, 6, 3)).astype(np.float32)
    dy, group = draw.integers(-4, 5, (19, 3)).astype(np.float32), np.repeat(np.arange(4), sizes)
    y, dw = np.zeros((19, 3), np.float32), np.zeros_like(w)
    for row, expert in enumerate(group):
        y[row] = x[row] @ w[expert]
        dw[expert] += np.outer(x[row], dy[row])
    kernel = Tiles(rows=4)
    np.testing.assert_array_equal(kernel.forward(x, w, jnp.array(sizes)), y)
    np.testing.assert_array_equal(kernel.weight_gradient(x, dy, jnp.array(sizes), jnp.float32), dw)


@pytest.mark.parametrize("kernel", [Tiles(rows=4), RAGGED_DOT], ids=lambda kernel: kernel.name)
def test_numbers_that_are_not_finite_stay_in_their_group(kernel):
    """Rows 17 and 18 are in no group: a kernel may have left anything in them."""
    draw = np.random.default_rng(0)
    x, dy = draw.normal(size=(19, 6)).astype(np.float32), draw.normal(size=(19, 3)).astype(np.float32)
    sizes = jnp.array([5, 0, 9, 3])
    for x_bad, dy_bad in ((x, dy.copy()), (x.copy(), dy)):
        changed = dy_bad if x_bad is x else x_bad
        changed[17:] = np.nan
        assert np.isfinite(kernel.weight_gradient(x_bad, dy_bad, sizes, jnp.float32)).all()
        changed[6] = np.inf
        found = np.isfinite(kernel.weight_gradient(x_bad, dy_bad, sizes, jnp.float32))
        assert found.all((1, 2)).tolist() == [True, True, False, True]


def test_gradients_in_bfloat16_are_rounded_once():
    """A group of 16 tiles, whose sums are 256, 1, 1, ...: in bfloat16 256 + 1 is 256."""
    x = jnp.zeros((128, 1), jnp.bfloat16).at[::8].set(1).at[0].set(256)
    dw = Tiles(rows=8).weight_gradient(x, jnp.ones_like(x), jnp.array([128]), jnp.bfloat16)
    assert (dw.dtype, dw.item()) == (jnp.bfloat16, jnp.asarray(271, jnp.bfloat16).item())


def test_there_may_be_no_rows():
    x, w, sizes = jnp.zeros((0, 6)), jnp.ones((4, 6, 3)), jnp.zeros(4, jnp.int32)
    assert Tiles().forward(x, w, sizes).shape == (0, 3)
    assert not Tiles().weight_gradient(x, jnp.zeros((0, 3)), sizes, jnp.float32).any()


def test_temporaries_are_rows_and_not_rows_times_experts():
    rows, width, hidden, experts = 256, 8, 16, 64
    x, w = jax.ShapeDtypeStruct((rows, width), "float32"), jax.ShapeDtypeStruct((experts, width, hidden), "float32")
    sizes = jax.ShapeDtypeStruct((experts,), "int32")
    compiled = jax.jit(Tiles().forward).lower(x, w, sizes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * rows * hidden * 4 < experts * rows * hidden * 4 / 10
