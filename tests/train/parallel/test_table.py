import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.latent import Latent
from model.errors import UserError
from model.layout import AxisSharding, Pipeline
from model.options.assignments import override
from model.options.tree import check
from model.parameters.names import flatten
from model.transformer import abstract_params, init, logical_axes
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import (
    ActivationAxes,
    ParameterAxes,
    Sharding,
    layout_of,
    mesh_axes,
    num_stages,
    param_shardings,
    replicated,
    uneven_axes,
    unused_axes,
)
from train.state import StateConfig, state_shardings


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(model__vocab_size=64, model__mixer__num_kv_heads=4)


def test_experts_lie_on_the_axis_that_the_table_names(experiment):
    model = override(experiment.model, "ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=16))")
    shapes, axes = abstract_params(model), logical_axes(model)
    mesh = make_mesh(Mesh(data=1, fsdp=2, tensor=4))
    for expert, up, router in (((), (2, 8, 16, 4), (2, 16, 8)), (("tensor",), (2, 2, 16, 16), (2, 16, 2))):
        ffn = param_shardings(mesh, Sharding(parameters=ParameterAxes(expert=expert)), axes, shapes)["blocks"]["ffn"]
        assert ffn["up"].shard_shape((2, 8, 32, 16)) == up
        assert ffn["router"].shard_shape((2, 32, 8)) == router


def test_no_device_makes_a_whole_parameter(experiment):
    """The compiled initialisation has no array of the full size of a sharded matrix."""
    mesh = make_mesh(Mesh(data=1, fsdp=8))
    shardings = param_shardings(mesh, Sharding(), logical_axes(experiment.model), abstract_params(experiment.model))
    program = jax.jit(lambda key: init(experiment.model, key), out_shardings=shardings)
    text = program.lower(jax.random.key(0)).compile().as_text()
    assert "f32[64,4]" in text  # a shard of the embedding table
    assert "f32[64,32]" not in text


def test_an_array_uses_a_mesh_axis_once():
    rows = ("stage", "data", "fsdp", "expert")
    assert mesh_axes(ActivationAxes(), ("batch", "sequence", "embed")) == [rows, ("context",), ()]
    assert mesh_axes(ActivationAxes(), ("expert", "batch")) == [("expert",), rows[:-1]]
    table, shards = ParameterAxes(), ("fsdp", "expert", "context")
    assert mesh_axes(table, ("vocab", "embed")) == [("tensor",), shards]
    assert mesh_axes(table, ("embed", "embed")) == [shards, ()]
    assert mesh_axes(table, ("expert", "embed", "ffn")) == [("expert",), ("fsdp", "context"), ("tensor",)]
    assert mesh_axes(table, ("layer", "ffn")) == [("stage",), ("tensor",)]
    assert mesh_axes(table, ("heads", "ffn", None)) == [("tensor",), (), ()]
    assert mesh_axes(ParameterAxes(embed=("fsdp", "tensor")), ("heads", "embed")) == [("tensor",), ("fsdp",)]


def test_every_parameter_can_be_placed_on_every_mesh(experiment):
    for option in (Mesh(data=8), Mesh(data=1, fsdp=8), Mesh(data=2, tensor=4), Mesh(data=2, fsdp=2, tensor=2)):
        shardings = param_shardings(
            make_mesh(option), Sharding(), logical_axes(experiment.model), abstract_params(experiment.model)
        )
        for shape, place in zip(
            jax.tree.leaves(abstract_params(experiment.model)), jax.tree.leaves(shardings), strict=True
        ):
            place.shard_shape(shape.shape)  # raises where a mesh axis is used twice or does not divide


def test_a_parameter_that_the_mesh_does_not_divide_is_named(tiny_experiment):
    model = tiny_experiment().model  # 257 tokens
    with pytest.raises(UserError, match=r"embedding\.table: its vocab axis of 257 .* 2 ways over mesh axis tensor"):
        param_shardings(make_mesh(Mesh(tensor=2)), Sharding(), logical_axes(model), abstract_params(model))
    whole = param_shardings(
        make_mesh(Mesh(tensor=2)),
        Sharding(parameters=ParameterAxes(vocab=())),
        logical_axes(model),
        abstract_params(model),
    )
    assert whole["embedding"]["table"].shard_shape((257, 32)) == (257, 32)


def test_a_latent_takes_the_mesh_axes_that_divide_it(experiment):
    """Eight ways divide a latent of 24 numbers; of one of 12 the first four do, of one of 6 only the last two."""
    mesh = make_mesh(Mesh(data=1, fsdp=4, context=2))

    def shards(rank, table=Sharding()):
        mixer = Latent(num_heads=4, kv_rank=rank, query_rank=24, head_dim=10, rotary_head_dim=6, value_head_dim=14)
        model = dataclasses.replace(experiment.model, mixer=mixer)
        axes, shapes = logical_axes(model), abstract_params(model)
        assert uneven_axes(mesh, table, axes, shapes) == {}
        found, held = param_shardings(mesh, table, axes, shapes)["blocks"]["mixer"], shapes["blocks"]["mixer"]
        split = {name: found[name].shard_shape(held[name].shape)[1:] for name in ("query", "key_up", "kv_down")}
        layout = layout_of(mesh, table).parameter_axis_shardings((rank, 4, 10), ("rank", "heads", "head_dim"))
        assert rank // layout[0].ways == split["key_up"][0]
        return split

    assert shards(24) == {"query": (3, 4, 16), "key_up": (3, 4, 10), "kv_down": (4, 24)}
    assert shards(12) == {"query": (3, 4, 16), "key_up": (3, 4, 10), "kv_down": (4, 12)}
    assert shards(6) == {"query": (3, 4, 16), "key_up": (3, 4, 10), "kv_down": (4, 6)}
    assert shards(7)["key_up"] == (7, 4, 10)
    assert shards(24, Sharding(parameters=ParameterAxes(rank=())))["query"] == (24, 4, 16)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (Mesh(tensor=0), "tensor: must be at least 1, got 0"),
        (
            Sharding(parameters=ParameterAxes(ffn=("model",))),
            "parameters.ffn: 'model' is no mesh axis; known: stage, data, fsdp, expert, context, tensor",
        ),
        (Sharding(activations=ActivationAxes(batch=("data", "data"))), "activations.batch: names a mesh axis twice"),
    ],
)
def test_values_without_sense_are_refused(option, words):
    with pytest.raises(UserError, match=words):
        check(option)


def test_optimizer_state_that_mirrors_no_parameter_is_replicated(experiment):
    mesh = make_mesh(Mesh(fsdp=8))
    shardings = state_shardings(StateConfig.of(experiment), mesh, Sharding())
    spec = {name: s.spec for name, s in flatten(shardings.opt_state).items()}
    assert all(s == replicated(mesh).spec for name, s in spec.items() if name.endswith(("count", "rate")))
    assert sum("fsdp" in str(s) for s in spec.values()) == 2 * len(jax.tree.leaves(shardings.params))  # both moments


# ---------------------------------------------------------------------------------------------------- activations

SPLIT = Sharding(activations=ActivationAxes(sequence=("tensor",), query_sequence=("tensor",), ffn=("fsdp", "tensor")))


@pytest.fixture(scope="module")
def layout():
    return layout_of(make_mesh(Mesh(data=2, fsdp=2, tensor=2)), SPLIT)


def test_an_activation_lies_as_its_names_say(layout):
    x = jax.jit(lambda x: layout.constrain(x, ("batch", "sequence", "embed")))(jnp.zeros((8, 6, 5)))
    assert {s.data.shape for s in x.addressable_shards} == {(2, 3, 5)}
    assert layout.placement(("batch", "sequence", "embed")).shard_shape((8, 6, 5)) == (2, 3, 5)


def test_an_axis_that_the_mesh_does_not_divide_stays_whole(layout):
    x = jax.jit(lambda x: layout.constrain(x, ("batch", "sequence", "embed")))(jnp.zeros((8, 7, 5)))
    assert {s.data.shape for s in x.addressable_shards} == {(2, 7, 5)}


def test_ways(layout):
    expected = {"batch": 4, "sequence": 2, "ffn": 4, "heads": 2, "embed": 1, "key_sequence": 1}
    assert {axis: layout.ways(axis) for axis in expected} == expected
    assert layout.mesh_axes("batch") == ("data", "fsdp")
    assert layout.splits_tokens
    assert not layout_of(make_mesh(Mesh(data=1, tensor=8)), Sharding()).splits_tokens


def test_map_runs_a_function_on_shards_with_collectives_by_axis_names(layout):
    """Each device adds up its own positions; names of mesh axes come from the layout."""
    shapes = []

    def total(x_BTD, scale_D):
        shapes.append((x_BTD.shape, scale_D.shape))
        summed = jnp.sum(x_BTD * scale_D, axis=1)
        return {"sum": jax.lax.psum(summed, layout.mesh_axes("query_sequence")), "own": x_BTD}

    axes = ("batch", "query_sequence", "embed")
    mapped = layout.shard_map(total, (axes, ("embed",)), {"sum": ("batch", "embed"), "own": axes})
    x, scale = np.random.default_rng(0).normal(size=(8, 6, 5)).astype(np.float32), np.arange(5, dtype=np.float32)
    got = jax.jit(mapped)(x, scale)
    assert shapes == [((2, 3, 5), (5,))]
    np.testing.assert_allclose(got["sum"], (x * scale).sum(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got["own"], x)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(mapped(x, scale)["sum"] ** 2)))(x)
    expected = np.broadcast_to(2 * (x * scale).sum(axis=1, keepdims=True) * scale, x.shape)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4)


def test_how_an_array_is_split_is_as_it_is_laid_out():
    """Each mesh axis is used once, evenly or not at all; parameters have their own names."""
    table = Sharding(
        parameters=ParameterAxes(embed=("fsdp", "tensor")), activations=ActivationAxes(sequence=("tensor",))
    )
    layout = layout_of(make_mesh(Mesh(data=2, fsdp=2, tensor=2)), table)
    rows, tensor = AxisSharding(("data", "fsdp"), 4), AxisSharding(("tensor",), 2)
    assert layout.axis_shardings((8, 6, 10), ("batch", "sequence", "vocab")) == (rows, tensor, AxisSharding())
    assert layout.axis_shardings((8, 6, 10), ("batch", "key_sequence", "vocab")) == (rows, AxisSharding(), tensor)
    assert layout.axis_shardings((6, 7), ("batch", "sequence")) == (AxisSharding(), AxisSharding())
    assert layout.axis_shardings((8, 6), (tensor, "sequence")) == (tensor, AxisSharding())
    assert layout.parameter_axis_shardings((8, 6), ("embed", "vocab")) == (
        AxisSharding(("fsdp", "tensor"), 4),
        AxisSharding(),
    )
    assert layout.parameter_axis_shardings((6, 8), ("vocab", "embed")) == (tensor, AxisSharding(("fsdp",), 2))
    doubled = layout.shard_map(lambda part: 2 * part, ((tensor, None),), (tensor, None))
    np.testing.assert_array_equal(jax.jit(doubled)(jnp.ones((2, 3))), np.full((2, 3), 2))


def test_a_mesh_of_one_device_leaves_no_trace_and_equal_layouts_are_one():
    one = make_mesh(Mesh(), jax.devices()[:1])
    axes = ("batch", "sequence", "embed")
    layout = layout_of(one, SPLIT)

    def laid_out(x):
        same = layout.shard_map(lambda part: jax.lax.psum(part, layout.mesh_axes("sequence")), (axes,), axes)
        return same(layout.constrain(x, axes))

    assert jax.make_jaxpr(laid_out)(jnp.zeros((2, 2, 2))).eqns == []
    assert layout_of(one, SPLIT).platform == "cpu"
    assert {layout_of(one, SPLIT), layout_of(make_mesh(Mesh(), jax.devices()[:1]), SPLIT)} == {layout_of(one, SPLIT)}
    assert layout_of(one, SPLIT) != layout_of(one, Sharding())


def test_the_stages_of_a_pipeline_are_the_mesh_axes_of_layers():
    """Inside of a stage rows are split over the other axes; a table that keeps layers whole makes rows of the axis."""
    mesh = make_mesh(Mesh(stage=2, data=2, fsdp=2))
    layout = layout_of(mesh, Sharding(chunks=3))
    assert layout.pipeline == Pipeline(AxisSharding(("stage",), 2), chunks=3, micro_batches=2, row_shards=4)
    assert layout.with_micro_batches(8).pipeline.micro_batches == 8
    within = layout.within_stage()
    assert (layout.ways("batch"), within.ways("batch"), within.pipeline) == (8, 4, None)
    whole = layout_of(mesh, Sharding(parameters=ParameterAxes(layer=())))
    assert (whole.ways("batch"), whole.pipeline) == (8, None)
    assert num_stages(Mesh(stage=2, fsdp=4), Sharding()) == 2
    assert num_stages(Mesh(stage=2), Sharding(parameters=ParameterAxes(layer=()))) == 1


def test_mesh_axes_that_a_table_names_nowhere():
    """As in the configs of runs from before an axis came."""
    before = Sharding(parameters=ParameterAxes(layer=()), activations=ActivationAxes(batch=("data", "fsdp", "expert")))
    assert unused_axes(Mesh(stage=2, fsdp=2), before) == ["stage"]
    assert unused_axes(Mesh(data=2, fsdp=2), before) == unused_axes(Mesh(stage=2, expert=2), Sharding()) == []
