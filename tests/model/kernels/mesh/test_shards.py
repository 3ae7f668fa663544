"""Attention on a mesh gives the numbers and gradients of one device, from local arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import SlidingWindow
from model.kernels import attend
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.plain import Plain
from model.kernels.xla.tiles import Tiles
from model.layout import ONE_DEVICE
from model.positions.alibi import LinearBias, slopes
from model.positions.relative import RelativeBias
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, Sharding, layout_of

B, T, N, H = 4, 64, 8, 8
SEGMENTS = np.sort(np.random.default_rng(1).integers(1, 4, (B, T)), axis=1)
PACKED = Coordinates(T, position=np.arange(T)[None] % 40, segment_ids=SEGMENTS)
ROW, TILES = Coordinates(T), Tiles(queries=16, keys=8)
WHOLE_KEYS = ActivationAxes(key_sequence=())


def on(mesh, activations=WHOLE_KEYS, balanced=True):
    return layout_of(make_mesh(mesh), Sharding(activations=activations, balanced=balanced))


def arrays(kv_heads=N, length=T, keys=T):
    rng = np.random.default_rng(0)
    shapes = [(B, length, N, H), (B, keys, kv_heads, H), (B, keys, kv_heads, H), (N,), (6, N), (B, length, N, H)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def both(layout, arrays, visibility, *, kernels=(TILES,), bias=None, sinks=False, **options):
    """The output, and the gradients of queries, keys, values, sinks and table."""
    *inputs, towards = arrays

    def output(q, k, v, sink, table):
        biases = {"linear": LinearBias(slopes(N)), "trained": RelativeBias(buckets=6, max_distance=40).bias(N, table)}
        options_ = {"bias": biases.get(bias), "sink_N": sink if sinks else None, "layout": layout, **options}
        return attend(q, k, v, visibility, Scoring(0.4, 3.0), kernels=kernels, **options_)

    def run(*inputs):
        y, pull = jax.vjp(output, *inputs)
        return (y, *pull(towards))

    return jax.jit(run)(*inputs)


def assert_same(got, want):
    for name, one, other in zip(("y", "q", "k", "v", "sink", "table"), got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)


CASES = {
    "all at once": dict(
        visibility=causal(PACKED).with_pattern(SlidingWindow(size=20)), kv_heads=4, bias="trained", sinks=True
    ),
    "ALiBi, prefix": dict(visibility=causal(ROW).with_prefix(np.array([9, 0, 30, 3])), kv_heads=4, bias="linear"),
    "mask": dict(visibility=bidirectional(ROW).with_mask(np.random.default_rng(2).random((B, T, T)) < 0.5)),
    "a key head of many devices": dict(visibility=causal(ROW), kv_heads=2),
    "a key head of all devices": dict(visibility=causal(ROW), kv_heads=1),
}


REPEATED = ("mask", "a key head of all devices")  # parts of the other cases


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.sweep] * (n in REPEATED)) for n in CASES])
def test_a_mesh_gives_the_numbers_of_one_device(name):
    options = dict(CASES[name])
    inputs = arrays(options.pop("kv_heads", N))
    assert_same(both(on(Mesh(context=2, tensor=4)), inputs, **options), both(ONE_DEVICE, inputs, **options))


def test_key_heads_that_devices_share_unevenly():
    """Six query heads and two key heads for three devices: the second device has query heads of both key heads."""
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(2, 16, n, H)).astype(np.float32) for n in (6, 2))
    layout = layout_of(make_mesh(Mesh(tensor=3), jax.devices()[:3]), Sharding(activations=WHOLE_KEYS))

    def gradients(layout):
        loss = lambda q, k: jnp.sum(jnp.sin(attend(q, k, k, causal(Coordinates(16)), Scoring(0.4), layout=layout)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(q, k)

    for got, want in zip(*map(jax.tree.leaves, (gradients(layout), gradients(ONE_DEVICE))), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_kernels_see_local_shapes_and_the_first_query_of_the_device(balanced):
    """Or, where devices exchange queries, those of its two chunks."""
    asked = []

    class Listening(Plain):
        def supports(self, request):
            asked.append(request)

    q, k, v, *_ = arrays(kv_heads=4)
    options = {"layout": on(Mesh(context=2, tensor=2), balanced=balanced), "kernels": (Listening(),)}
    jax.eval_shape(lambda q, k, v: attend(q, k, v, causal(PACKED), Scoring(1.0), **options), q, k, v)
    length = 16 if balanced else 32
    assert len(asked) == 32 // length
    for request in asked:
        assert (request.q.shape, request.k.shape) == ((2, length, 4, H), (2, T, 2, H))
        assert (request.visibility.queries.count, request.visibility.keys.count) == (length, T)
        assert request.visibility.queries.offset is not None
        assert not request.visibility.indices_are_static
        assert request.visibility.queries.segment_ids.shape == (2, length)


def test_each_device_drops_other_weights():
    """Rows, heads and queries that are equal on all devices: their outputs differ."""
    q, k, v, *_ = arrays()
    q, v = np.broadcast_to(q[:1, :1, :1], q.shape), np.broadcast_to(v[:1, :, :1], v.shape)
    k = np.broadcast_to(k[:1, :, :1], k.shape)
    layout = on(Mesh(context=2, tensor=2))
    y = jax.jit(lambda q, k, v: attend(
        q, k, v, bidirectional(ROW), Scoring(0.4), layout=layout, dropout=0.5, dropout_key=jax.random.key(0),
        kernels=(Tiles(),),
    ))(q, k, v)  # fmt: skip
    firsts = np.asarray(y)[::2, ::32, ::4].reshape(-1, H)
    assert len(np.unique(firsts, axis=0)) == len(firsts) == 8


def test_tiles_that_no_query_of_a_device_sees_are_left_out():
    """The second half of the keys is not a number: queries of the first device do not see it."""
    q, k, v, *_ = arrays()
    v[:, 32:] = np.nan
    layout = on(Mesh(context=2))
    y = jax.jit(lambda q, k, v: attend(q, k, v, causal(ROW), Scoring(0.4), layout=layout, kernels=(TILES,)))(q, k, v)
    assert np.isfinite(y[:, :32]).all()


@pytest.mark.parametrize("keys", [(), pytest.param(("context",), marks=pytest.mark.sweep)], ids=["gather", "ring"])
def test_inside_of_a_scan_of_rematerialised_layers_that_are_mapped(keys):
    """A mesh axis for the mapped axis, as pipeline stages have it; each layer attends to itself."""
    table = ActivationAxes(batch=("fsdp",), key_sequence=keys)
    layout = on(Mesh(data=2, fsdp=2, context=2), table)
    x = np.random.default_rng(0).normal(size=(2, 2, 16, N, H)).astype(np.float32)

    def loss(x, layout, spmd):
        layer = lambda x: attend(x, x, x, causal(Coordinates(16)), Scoring(0.4), layout=layout, kernels=(TILES,))  # noqa: E731
        body = lambda x, _: (jax.vmap(jax.checkpoint(layer), spmd_axis_name=spmd)(x), None)  # noqa: E731
        return jnp.sum(jnp.sin(jax.lax.scan(body, x, None, length=3)[0]))

    got, want = (
        jax.jit(jax.grad(functools.partial(loss, layout=each, spmd=spmd)))(x)
        for each, spmd in ((layout, "data"), (ONE_DEVICE, None))
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
