import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from model.context import Context
from model.layout import ONE_DEVICE, SEQUENCE_AXES, AxisSharding, Layout, vary, varying_axes


def test_one_device_splits_nothing_and_has_the_platform_of_the_process():
    assert {ONE_DEVICE.ways(axis) for axis in ("batch", "heads", *SEQUENCE_AXES)} == {1}
    assert ONE_DEVICE.mesh_axes("batch") == ()
    assert ONE_DEVICE.axis_shardings((8, 6), ("batch", "sequence")) == (AxisSharding(), AxisSharding())
    assert ONE_DEVICE.parameter_axis_shardings((8, 6), ("embed", "vocab")) == (AxisSharding(), AxisSharding())
    assert not ONE_DEVICE.splits_tokens
    assert ONE_DEVICE.platform == "cpu"
    assert {Layout(), ONE_DEVICE} == {ONE_DEVICE}  # jit takes equal layouts for one


def test_it_leaves_no_trace_in_a_program():
    context = Context(index_BT=None)

    def laid_out(x):
        x = context.shard(x, ("batch", "sequence", "embed"))
        return ONE_DEVICE.shard_map(
            lambda part: part, (("batch", "sequence", "embed"),), ("batch", "sequence", "embed")
        )(x)

    assert jax.make_jaxpr(laid_out)(jnp.zeros((2, 3, 4))).eqns == []


def test_map_runs_the_function_on_the_whole():
    double = ONE_DEVICE.shard_map(lambda x, y: (2 * x, y), (("batch",), (None,)), (("batch",), (None,)))
    np.testing.assert_array_equal(double(np.arange(3), np.ones(2))[0], [0, 2, 4])


def test_tokens_are_split_where_rows_or_any_positions_are():
    for split in ("batch", *SEQUENCE_AXES, "heads"):
        layout = type("Halved", (Layout,), {"ways": lambda self, axis, split=split: 2 if axis == split else 1})()
        assert layout.splits_tokens == (split != "heads")


def test_arrays_are_marked_along_the_mesh_axes_that_are_missing():
    """A loop of `shard_map` wants what it begins with to differ along the axes of what it adds; all at once or never."""
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    found = []

    def on_device(x, w):
        found.append([varying_axes(x), varying_axes(w), varying_axes(x, w), varying_axes(jnp.zeros(2))])
        start = vary({"x": x, "zero": jnp.zeros(2), "none": None}, varying_axes(x, w))
        found.append([varying_axes(start["x"]), varying_axes(start["zero"]), start["none"]])
        assert vary(x, ("data",)) is x
        return jax.lax.fori_loop(0, 3, lambda _, y: y + x * w, start["zero"])

    specs = PartitionSpec("data"), PartitionSpec("tensor")
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(("data", "tensor")))
    y = jax.jit(mapped)(jnp.arange(4.0), jnp.arange(4.0))
    assert found[0] == [("data",), ("tensor",), ("data", "tensor"), ()]
    assert found[1] == [("data", "tensor"), ("data", "tensor"), None]
    np.testing.assert_array_equal(
        y, [3 * a * b for x in ((0, 1), (2, 3)) for w in ((0, 1), (2, 3)) for a, b in zip(x, w)]
    )
    assert varying_axes(jnp.zeros(2)) == ()
