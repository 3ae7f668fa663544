import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.feedforward.placement import EXPERT_AXES, Placement
from model.layout import ONE_DEVICE, AxisSharding
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of, param_shardings

E, D, F = 8, 16, 24
SHAPES = {"up": (E, D, F), "down": (E, F, D), "up_bias": (E, F), "down_bias": (E, D)}
PARAMS = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}


def over(*axes):
    return Sharding(parameters=ParameterAxes(expert=axes), activations=ActivationAxes(expert=axes))


def placed(mesh, table, shape=(8, 4)):
    return Placement.of(layout_of(make_mesh(mesh), table), shape, PARAMS)


def test_one_device_has_all():
    placement = Placement.of(ONE_DEVICE, (8, 4), PARAMS)
    assert placement.mesh_axes == placement.exchange_axes == ()
    assert set(placement.gathered.values()) == {()}


def test_tokens_travel_along_axes_that_split_both_and_weights_are_gathered_along_the_others():
    placement = placed(Mesh(data=1, expert=2, fsdp=2, tensor=2), Sharding())
    assert placement.token_axes == ("fsdp", "expert")
    assert placement.exchange_axes == ("expert",)
    assert placement.summed_axes == ("tensor",)
    assert placement.gathered == {
        "up": ((1, ("fsdp",)),),
        "down": ((2, ("fsdp",)),),
        "up_bias": (),
        "down_bias": ((1, ("fsdp",)),),
    }
    names = {name: [axis.mesh_axes for axis in axes] for name, axes in placement.parameters.items()}
    assert names["up"] == [("expert",), ("fsdp",), ("tensor",)]
    assert names["down_bias"] == [("expert",), ("fsdp",)]


def test_an_axis_that_splits_no_tokens_has_no_exchange():
    placement = placed(Mesh(data=2, tensor=4), over("tensor"))
    assert (placement.exchange_axes, placement.expert_only_axes) == ((), ("tensor",))
    assert placement.ffn == AxisSharding()  # the axis has experts


def test_rows_that_the_mesh_does_not_divide_are_on_all_devices():
    placement = placed(Mesh(data=1, expert=4, fsdp=2), Sharding(), (3, 1))
    assert placement.token_axes == placement.exchange_axes == ()
    assert placement.expert_only_axes == ("expert",)
    assert set(placement.gathered.values()) == {()}


@pytest.mark.parametrize(("axes", "exchanged"), [(("tensor", "fsdp"), 2), (("fsdp", "expert"), 4), (("tensor",), 1)])
def test_each_expert_has_one_place(axes, exchanged):
    """On the devices that hold the same tokens, each expert has a number on one, and is absent on the others."""
    mesh = make_mesh(Mesh(data=1, fsdp=2, expert=2, tensor=2))
    placement = placed(Mesh(data=1, fsdp=2, expert=2, tensor=2), over(*axes))

    def groups(_):
        group, (ways, here) = placement.groups_of(jnp.arange(E), E)
        assert ways == exchanged
        mine = jax.lax.axis_index(placement.exchange_axes) if placement.exchange_axes else 0
        held = jax.lax.axis_index(axes) * here + jnp.arange(here)
        return jnp.stack([jnp.isin(group[held], mine * here + jnp.arange(here)).all(), (group < ways * here).sum()])[
            None
        ]

    rows = jax.sharding.PartitionSpec(("fsdp", "expert", "tensor"))
    found = jax.jit(jax.shard_map(groups, mesh=mesh, in_specs=rows, out_specs=rows))(jnp.zeros(8))
    only = 2 if "tensor" in axes else 1
    np.testing.assert_array_equal(found, [[1, E // only]] * 8)


def test_a_mesh_that_does_not_divide_the_experts_is_refused_with_its_divisors():
    shapes = {"up": jax.ShapeDtypeStruct((6, D, F), jnp.float32)}
    with pytest.raises(
        UserError, match=r"its expert axis of 6 cannot be split 4 ways over mesh axis expert, but 1, 2, 3, 6 ways"
    ):
        param_shardings(make_mesh(Mesh(data=1, fsdp=2, expert=4)), Sharding(), {"up": EXPERT_AXES["up"]}, shapes)


def test_an_expert_axis_for_a_model_without_experts_is_refused():
    axes, shapes = {"up": ("embed", "ffn")}, {"up": jax.ShapeDtypeStruct((D, F), jnp.float32)}
    with pytest.raises(UserError, match="expert=4 splits experts, and this model has none; use fsdp=4"):
        param_shardings(make_mesh(Mesh(data=2, expert=4)), Sharding(), axes, shapes)
