"""The kernel of tiles: the tiles that its loops skip, and the arrays that it keeps; test_kernels.py compares results."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import SlidingWindow
from model.kernels import attend
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.tiles import Tiles
from tests.model.kernels.reference import heads
from tests.train.test_whole_arrays import arrays

T = 96
ROW = Coordinates(T)


@pytest.mark.parametrize(
    ("visibility", "tiles"),
    [
        (bidirectional(ROW), 9),
        (causal(ROW), 6),
        (causal(ROW).with_pattern(SlidingWindow(size=8)), 5),
        (bidirectional(ROW).with_pattern(SlidingWindow(size=8)), 7),
        (causal(ROW).with_prefix(3), 9),
        (causal(Coordinates(32, 64), ROW), 3),
    ],
)
def test_tiles_that_no_query_sees_are_left_out(visibility, tiles):
    """The kernel reads the keys of visited tiles and no others: a NaN in such a key reaches some output."""
    kernel, length = Tiles(queries=32, keys=32), visibility.queries.count
    q, k, v = (jnp.asarray(x) for x in heads(2, 1, b=1, t=length, s=T, h=4))
    visited = 0
    for tile in range(T // 32):
        poisoned = v.at[:, 32 * tile : 32 * tile + 32].set(jnp.nan)
        y = attend(q, k, poisoned, visibility, Scoring(0.4), kernels=(kernel,))
        visited += np.isnan(np.asarray(y)).any((0, 2, 3)).reshape(-1, 32).any(1).sum()
    assert visited == tiles


def test_no_array_is_larger_than_inputs_and_tiles_forward_and_backward():
    length = 1000
    q, k, v = (jnp.asarray(x) for x in heads(2, 1, b=1, t=length, s=length, h=4))
    visibility = causal(Coordinates(length, segment_ids=jnp.ones((1, length), jnp.int32)))

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v, visibility, Scoring(0.4), kernels=(Tiles(queries=64, keys=50),)))

    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    shapes = set(arrays(program.jaxpr))
    assert (1, 1, 2, 64, 50) in shapes
    assert max(map(math.prod, shapes)) == 2 * 1024 * 4


def test_sums_over_many_tiles_are_float32_where_scores_are_not():
    """A thousand keys of equal weight, half with value 1 and half with 3: sums in bfloat16 would stop at 256."""
    v = jnp.repeat(jnp.asarray([1.0, 3.0]), 500)[None, :, None, None]
    q, k, v = (x.astype(jnp.bfloat16) for x in (jnp.zeros((1, 1, 1, 4)), jnp.zeros((1, 1000, 1, 4)), v))
    visibility = bidirectional(Coordinates(1), Coordinates(1000))
    y = attend(q, k, v, visibility, Scoring(1.0, reductions="bfloat16"), kernels=(Tiles(keys=1),))
    np.testing.assert_array_equal(np.asarray(y, np.float32), 2.0)


def test_a_query_that_sees_no_tile_gets_nothing():
    """All keys have later positions than the queries, so no query sees a key."""
    q, k, v = heads(2, 1, b=1, t=4, s=8, h=4)
    visibility = causal(Coordinates(4), Coordinates(8, 6))
    y = attend(q, k, v, visibility, Scoring(0.4), kernels=(Tiles(queries=4, keys=4),))
    np.testing.assert_array_equal(y, 0)


def test_rows_and_heads_on_several_devices_need_no_collective():
    """The batch and the heads are split in two: same outputs and gradients, and no communication between devices."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]).reshape(2, 2), ("data", "tensor"))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None, "tensor"))
    inputs = [jnp.asarray(x) for x in heads(8, 4, b=4, t=T, s=T, h=4)]
    visibility = causal(ROW).with_pattern(SlidingWindow(size=40))

    def both(q, k, v):
        y, pull = jax.vjp(lambda *x: attend(*x, visibility, Scoring(0.4), kernels=(Tiles(32, 32),)), q, k, v)
        return (y, *pull(jnp.cos(y)))

    run = jax.jit(both, in_shardings=(place,) * 3, out_shardings=(place,) * 4)
    for got, want in zip(run(*inputs), jax.jit(both)(*inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    text = run.lower(*inputs).compile().as_text()
    assert "while" in text
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text
