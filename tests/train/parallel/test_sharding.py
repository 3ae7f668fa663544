import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.options import check, override
from model.taps import Context
from model.transformer import abstract_params, init, logical_axes
from train.checkpoints.store import flat
from train.parallel import feed, sharding
from train.parallel.sharding import Mesh, Sharding, make_mesh, mesh_axes, named, param_shardings
from train.state import init_sharded, state_shardings
from train.step import compile_train_step

MESHES = {
    "data": (Mesh(data=8), Sharding()),
    "fsdp": (Mesh(data=1, fsdp=8), Sharding()),
    "tensor": (Mesh(data=1, tensor=4), Sharding()),
    "mix": (Mesh(data=2, fsdp=2, tensor=2), Sharding()),
    "sequence": (Mesh(data=2, fsdp=2, tensor=2), Sharding(sequence=("tensor",), heads=(), kv_heads=(), ffn=())),
}


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(
        model__vocab_size=64, model__attention__num_kv_heads=4, schedule__peak=3e-3, training__clip_norm=0.5
    )


def devices_of(mesh):
    return jax.devices()[: (mesh.data or 1) * mesh.fsdp * mesh.tensor]


def train(experiment, mesh, start, batches):
    """Losses of the steps from a state on the host, and the parameters after them, by name."""
    stateful = (experiment.model, experiment.optimizer, experiment.training.guard)
    state = jax.device_put(start, state_shardings(*stateful, mesh, experiment.sharding))
    step, losses = compile_train_step(experiment, mesh), []
    rows = named(mesh, experiment.sharding, ("batch", "sequence"))
    for batch in batches:
        state, metrics = step(state, feed.place(batch, rows, experiment.data.batch_size, isolated=True))
        losses.append(float(metrics["loss"]))
    return losses, {name: np.asarray(x) for name, x in flat(state.all_params).items()}


@pytest.fixture(scope="module")
def alone(experiment):
    """What one device computes: the first state, the batches, the losses, the parameters."""
    return on_one_device(experiment)


@functools.cache
def on_one_device(experiment):
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    stateful = (experiment.model, experiment.optimizer, experiment.training.guard)
    placed = state_shardings(*stateful, mesh, experiment.sharding)
    start = jax.device_get(init_sharded(*stateful, experiment.training.seed, placed))
    batches = [numbered_batch(experiment, n) for n in range(4)]
    return start, batches, *train(experiment, mesh, start, batches)


@pytest.fixture(scope="module")
def sharded_start(experiment):
    """The first state, made on eight devices."""
    stateful = (experiment.model, experiment.optimizer, experiment.training.guard)
    placed = state_shardings(*stateful, make_mesh(MESHES["mix"][0]), Sharding())
    return init_sharded(*stateful, experiment.training.seed, placed)


def numbered_batch(experiment, n):
    draw = np.random.default_rng(n)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    return {
        "tokens": draw.integers(0, 64, shape, np.int32),
        "targets": draw.integers(0, 64, shape, np.int32),
        "loss_mask": draw.integers(0, 2, shape).astype(np.float32),
        "segment_ids": np.sort(draw.integers(1, 3, shape, np.int32), axis=1),
        "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    }


@pytest.mark.parametrize("name", MESHES)
def test_sharded_equals_one_device(name, experiment, alone):
    option, table = MESHES[name]
    mesh = make_mesh(option, devices_of(option))
    start, batches, expected_losses, expected = alone
    losses, params = train(dataclasses.replace(experiment, sharding=table), mesh, start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert len(set(expected_losses)) == 4
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


EXPERT_MESHES = {
    "mix": (Mesh(data=2, fsdp=2, tensor=2), Sharding()),
    "over tensor": (Mesh(data=2, fsdp=1, tensor=4), Sharding(expert=("tensor",))),
    "over fsdp": (Mesh(data=1, fsdp=4, tensor=2), Sharding(expert=("fsdp",))),
}


@pytest.mark.parametrize(
    ("dispatch", "name"),
    [
        ("Dropless()", "mix"),
        ("Dropless()", "over tensor"),
        ("Capacity(factor=1.0)", "over tensor"),
        ("Capacity(factor=1.0)", "over fsdp"),
    ],
)
def test_sharded_experts_equal_those_of_one_device(dispatch, name, experiment):
    ffn = f"""Experts(num_experts=8, top_k=2, expert=Gated(width=16, bias=True), router=SigmoidRouter(bias=True),
        dispatch={dispatch}, shared=Shared(ffn=Gated(width=16), gate=True),
        balance_loss=BalanceLoss(coefficient=0.1), router_z_loss=0.01, load_bias=LoadBias(rate=0.01))"""
    experiment = override(override(experiment, f"model.ffn={ffn}"), "model.initialization=Normal(std=0.2)")
    start, batches, expected_losses, expected = on_one_device(experiment)
    option, table = EXPERT_MESHES[name]
    losses, params = train(
        dataclasses.replace(experiment, sharding=table), make_mesh(option, devices_of(option)), start, batches
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


def test_sharded_recurrences_equal_those_of_one_device(experiment):
    """Documents packed, heads over tensor: a memory, and cells above it."""
    changes = [
        "model.initialization=Normal(std=0.2)",
        "optimizer.epsilon=1e-4",  # else Adam blows rounding up where a gradient is nearly 0
        "model.position=NoPositions",
        "model.attention=GatedDelta(num_heads=4, num_key_heads=2, chunk=5)",
        "model.exceptions=(Except(layers='1', attention=LSTM(num_heads=2)),)",
    ]
    experiment = functools.reduce(override, changes, experiment)
    start, batches, expected_losses, expected = on_one_device(experiment)
    losses, params = train(experiment, make_mesh(MESHES["mix"][0]), start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


def test_experts_lie_on_the_axis_that_the_table_names(experiment):
    model = override(experiment.model, "ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=16))")
    shapes, axes = abstract_params(model), logical_axes(model)
    mesh = make_mesh(Mesh(data=1, fsdp=2, tensor=4))
    for expert, up, router in (((), (2, 8, 16, 4), (2, 16, 8)), (("tensor",), (2, 2, 16, 16), (2, 16, 2))):
        ffn = param_shardings(mesh, Sharding(expert=expert), axes, shapes)["blocks"]["ffn"]
        assert ffn["up"].shard_shape((2, 8, 32, 16)) == up
        assert ffn["router"].shard_shape((2, 32, 8)) == router


def test_accumulated_on_a_mesh_it_equals_one_device_with_the_large_batch(experiment, alone):
    start, batches, expected_losses, expected = alone
    training = dataclasses.replace(experiment.training, gradient_accumulation=2)
    losses, params = train(
        dataclasses.replace(experiment, training=training), make_mesh(MESHES["mix"][0]), start, batches
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


def test_parameters_and_moments_start_in_their_shards(sharded_start):
    state = sharded_start
    shards = {name: {s.data.shape for s in x.addressable_shards} for name, x in flat(state.params).items()}
    assert shards["embedding.table"] == {(64 // 2, 32 // 2)}  # vocab over tensor, embed over fsdp
    assert shards["blocks.attention.query"] == {(2, 32 // 2, 4 // 2, 8)}
    assert shards["blocks.attention.output"] == {(2, 4 // 2, 8, 32 // 2)}
    assert shards["blocks.ffn.down"] == {(2, 64 // 2, 32 // 2)}
    assert shards["final_norm.scale"] == {(32 // 2,)}
    moments = {name: x for name, x in flat(state.opt_state).items() if name.endswith("nu.blocks.ffn.down")}
    assert [{s.data.shape for s in x.addressable_shards} for x in moments.values()] == [{(2, 32, 16)}]
    # Two copies (data) of each of four shards, on eight devices.
    table = state.params["embedding"]["table"]
    assert sorted(s.replica_id for s in table.addressable_shards) == [0] * 4 + [1] * 4
    assert sum(s.data.size for s in table.addressable_shards) == 2 * table.size


def test_shards_hold_the_values_of_one_device(alone, sharded_start):
    sharded = flat(sharded_start.all_params)
    for name, value in flat(alone[0].all_params).items():
        np.testing.assert_array_equal(sharded[name], value, err_msg=name)
    assert len(np.unique(sharded["embedding.table"])) > 2000  # drawn at random, not filled


def test_no_device_makes_a_whole_parameter(experiment):
    """The compiled initialisation has no array of the full size of a sharded matrix."""
    mesh = make_mesh(Mesh(data=1, fsdp=8))
    placed = param_shardings(mesh, Sharding(), logical_axes(experiment.model), abstract_params(experiment.model))
    program = jax.jit(lambda key: init(experiment.model, key), out_shardings=placed)
    text = program.lower(jax.random.key(0)).compile().as_text()
    assert "f32[64,4]" in text  # a shard of the embedding table
    assert "f32[64,32]" not in text


def test_the_model_is_told_where_it_runs():
    """A kernel is chosen by the mesh's platform, which may not be the one that traces (a pod's, compiled on a CPU)."""
    two = make_mesh(Mesh(), jax.devices()[:2])
    assert Context(index_BT=None, shard=sharding.shard_activations(two, Sharding())).platform == "cpu"
    assert Context(index_BT=None).platform is None


def test_an_array_uses_a_mesh_axis_once():
    table = Sharding()
    assert mesh_axes(table, ("batch", "sequence", "embed")) == [("data", "fsdp"), (), ()]
    assert mesh_axes(table, ("vocab", "embed")) == [("tensor",), ("fsdp",)]
    assert mesh_axes(table, ("embed", "embed")) == [("fsdp",), ()]
    assert mesh_axes(table, ("heads", "ffn", None)) == [("tensor",), (), ()]
    assert mesh_axes(Sharding(embed=("fsdp", "tensor")), ("heads", "embed")) == [("tensor",), ("fsdp",)]


def test_every_parameter_can_be_placed_on_every_mesh(experiment):
    for option, table in MESHES.values():
        mesh = make_mesh(option, devices_of(option))
        placed = param_shardings(mesh, table, logical_axes(experiment.model), abstract_params(experiment.model))
        for shape, place in zip(
            jax.tree.leaves(abstract_params(experiment.model)), jax.tree.leaves(placed), strict=True
        ):
            place.shard_shape(shape.shape)  # raises where a mesh axis is used twice or does not divide


def test_the_data_axis_takes_the_devices_that_are_left():
    assert dict(make_mesh(Mesh()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(Mesh(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(Mesh(), jax.devices()[:3]).shape) == {"data": 3, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("option", [Mesh(data=3), Mesh(fsdp=3), Mesh(fsdp=16), Mesh(data=4), Mesh(data=4, tensor=4)])
def test_a_mesh_that_does_not_multiply_is_refused(option):
    with pytest.raises(UserError, match=r"does not multiply to the 8 devices here; change mesh\.data"):
        make_mesh(option)


def test_a_parameter_that_the_mesh_does_not_divide_is_named(tiny_experiment):
    model = tiny_experiment().model  # 257 tokens
    with pytest.raises(UserError, match=r"embedding\.table: its vocab axis of 257 .* 2 ways over mesh axis tensor"):
        param_shardings(make_mesh(Mesh(tensor=2)), Sharding(), logical_axes(model), abstract_params(model))
    whole = param_shardings(make_mesh(Mesh(tensor=2)), Sharding(vocab=()), logical_axes(model), abstract_params(model))
    assert whole["embedding"]["table"].shard_shape((257, 32)) == (257, 32)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (Mesh(tensor=0), "tensor: must be at least 1, got 0"),
        (Sharding(ffn=("model",)), "ffn: 'model' is no mesh axis; known: data, fsdp, tensor"),
        (Sharding(batch=("data", "data")), "batch: names a mesh axis twice"),
    ],
)
def test_values_without_sense_are_refused(option, words):
    with pytest.raises(UserError, match=words):
        check(option)


def test_optimizer_state_that_mirrors_no_parameter_is_replicated(experiment):
    mesh = make_mesh(Mesh(fsdp=8))
    placed = state_shardings(experiment.model, experiment.optimizer, experiment.training.guard, mesh, Sharding())
    spec = {name: s.spec for name, s in flat(placed.opt_state).items()}
    assert all(s == sharding.replicated(mesh).spec for name, s in spec.items() if name.endswith(("count", "rate")))
    assert sum("fsdp" in str(s) for s in spec.values()) == 2 * len(jax.tree.leaves(placed.params))  # both moments
