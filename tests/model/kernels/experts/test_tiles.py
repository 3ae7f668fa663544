"""Tiles of rows: cut as a loop over groups cuts them, each multiplied once, with no array of rows times experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_temporaries_are_rows_and_not_rows_times_experts():
    rows, width, hidden, experts = 256, 8, 16, 64
    x, w = jax.ShapeDtypeStruct((rows, width), "float32"), jax.ShapeDtypeStruct((experts, width, hidden), "float32")
    sizes = jax.ShapeDtypeStruct((experts,), "int32")
    compiled = jax.jit(Tiles().forward).lower(x, w, sizes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * rows * hidden * 4 < experts * rows * hidden * 4 / 10
