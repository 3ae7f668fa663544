"""Ring attention: the numbers of one device, the steps that a window needs, equal work for all devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import SlidingWindow
from model.kernels import attend
from model.kernels.mesh.ring import Ring, _Plan, from_chunks, steps_of, to_chunks
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.layout import ONE_DEVICE
from tests.model.kernels.mesh.test_shards import CASES, PACKED, ROW, B, H, N, T, arrays, assert_same, both
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, Sharding, layout_of

RING = ActivationAxes(key_sequence=("context",))


def on(mesh, balanced=True):
    devices = jax.devices()[: mesh.context * mesh.tensor]
    return layout_of(make_mesh(mesh, devices), Sharding(activations=RING, balanced=balanced))


WINDOW = SlidingWindow(size=10)
REQUESTS = {
    "packed, balanced": dict(visibility=causal(PACKED), kv_heads=4, bias="trained", sinks=True),
    "window on both sides": dict(visibility=bidirectional(ROW).with_pattern(WINDOW)),
    **CASES,
    "causal": dict(visibility=causal(ROW)),
    "window": dict(visibility=causal(ROW).with_pattern(WINDOW)),
    "ALiBi": dict(visibility=causal(PACKED), bias="linear", kv_heads=1),
    "bidirectional, packed": dict(visibility=bidirectional(PACKED)),
    "window of one device": dict(visibility=causal(ROW).with_pattern(SlidingWindow(size=1))),
}
FEW = ["packed, balanced", "window on both sides"]


def check(name, mesh, **options):
    options |= REQUESTS[name]
    inputs, layout = arrays(options.pop("kv_heads", N)), on(mesh, options.pop("balanced", True))
    assert_same(both(layout, inputs, **options), both(ONE_DEVICE, inputs, **options))


@pytest.mark.parametrize("name", FEW)
def test_a_ring_gives_the_numbers_of_one_device(name):
    check(name, Mesh(context=4, tensor=2))


@pytest.mark.sweep
@pytest.mark.parametrize("mesh", [Mesh(context=8), Mesh(context=2, tensor=4), Mesh(context=2)], ids=str)
@pytest.mark.parametrize("name", REQUESTS)
def test_every_ring_gives_the_numbers_of_one_device(name, mesh):
    check(name, mesh)


@pytest.mark.sweep
@pytest.mark.parametrize("name", FEW)
def test_an_unbalanced_ring(name):
    check(name, Mesh(context=4, tensor=2), balanced=False)


def test_the_backward_pass_drops_the_weights_that_the_forward_pass_drops():
    """Outputs are linear in the values, so that y(v) . dy = v . dv(dy)."""
    q, k, v, *_, dy = arrays()
    attended = lambda v: attend(  # noqa: E731
        q, k, v, causal(ROW), Scoring(0.4), layout=on(Mesh(context=2, tensor=2)), dropout=0.5,
        dropout_key=jax.random.key(0),
    )  # fmt: skip
    y, dv = jax.jit(lambda v: (lambda y, pull: (y, pull(dy)[0]))(*jax.vjp(attended, v)))(v)
    np.testing.assert_allclose(np.vdot(y, dy), np.vdot(v, dv), rtol=1e-4)
    assert np.abs(y - attend(q, k, v, causal(ROW), Scoring(0.4))).max() > 0.1


@pytest.mark.parametrize(
    ("visibility", "steps"),
    [
        (causal(ROW), (0, 8)),
        (causal(ROW).with_pattern(SlidingWindow(size=1)), (0, 1)),
        (causal(ROW).with_pattern(SlidingWindow(size=8)), (0, 2)),
        (causal(ROW).with_pattern(SlidingWindow(size=9)), (0, 2)),
        (causal(ROW).with_pattern(SlidingWindow(size=10)), (0, 3)),
        (causal(ROW).with_pattern(SlidingWindow(size=10, first=2)), (0, 8)),
        (bidirectional(ROW).with_pattern(SlidingWindow(size=9)), (-1, 3)),
        (bidirectional(ROW).with_pattern(SlidingWindow(size=40)), (0, 8)),
        (causal(ROW).with_prefix(3).with_pattern(SlidingWindow(size=9)), (-1, 3)),
        (causal(Coordinates(T, index=np.arange(T)[None])).with_pattern(SlidingWindow(size=9)), (0, 8)),
    ],
)
def test_the_ring_makes_as_many_steps_as_a_window_reaches(visibility, steps):
    """Eight devices with eight tokens each; a window of 9 tokens reaches 8 back, all of which may lie on one device."""
    assert steps_of(visibility, 8, 8) == steps


@pytest.mark.parametrize("ways", [2, 3, 8])
def test_chunks_come_from_both_ends_and_go_back(ways):
    layout, ring = on(Mesh(context=ways)), Ring(("context",), ways, 0, ways, chunks=2)
    axes = (None, "query_sequence")
    x = np.arange(4 * ways)[None]
    to, back = (
        jax.jit(layout.shard_map(functools.partial(function, ring), (axes,), axes))
        for function in (to_chunks, from_chunks)
    )
    chunks, size = to(x), 2
    expected = [np.arange(size) + size * chunk for i in range(ways) for chunk in (i, 2 * ways - 1 - i)]
    np.testing.assert_array_equal(chunks[0], np.concatenate(expected))
    np.testing.assert_array_equal(back(chunks), x)


def test_balanced_devices_have_as_many_tiles_in_every_step_and_others_have_not():
    """Pairs of chunks whose queries may see a key, for each device and step."""
    layout = on(Mesh(context=4))

    def pairs(chunks):
        ring = Ring(("context",), 4, 0, 4, chunks)

        def on_device(q_BNTH):
            def count(total, query, key, tiling):
                first, last = tiling.key_tiles(jnp.int32(0))
                return total + last - first

            plan, keys = _Plan(ring, Scoring(1.0), 0.0), (q_BNTH[:, 0],) * 2
            steps = [
                plan.for_each_pair(count, jnp.int32(0), q_BNTH, keys, causal(ROW), None, ring.source(number))
                for number in range(4)
            ]
            return jnp.stack(steps)[:, None]

        q = jnp.zeros((B, N, 1, T, H))
        axes = (None, None, None, "query_sequence", None)
        mapped = layout.shard_map(on_device, (axes,), (None, "query_sequence"), checks_copies=False)
        return np.asarray(jax.jit(mapped)(q))

    np.testing.assert_array_equal(pairs(2), [[3] * 4] + [[2] * 4] * 3)
    np.testing.assert_array_equal(pairs(1), [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
