import jax
import jax.numpy as jnp
import numpy as np

from model.context import Context
from model.layout import ONE_DEVICE, SEQUENCE_AXES, AxisSharding, Layout


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
