"""Training on a mesh computes what one device computes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.options.assignments import override
from model.parameters.names import flatten
from tests.tiers import SWEEP, representatives
from train.parallel import feed
from train.parallel.mesh import Mesh, make_mesh, num_devices
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of
from train.state import StateConfig, init_sharded, state_shardings
from train.step import compile_train_step

# The residual stream split along the sequence; heads, feed-forward width and vocabulary inside sublayers.
MEGATRON = Sharding(activations=ActivationAxes(sequence=("tensor",)))
# Positions split everywhere, but for keys, which every device has whole.
SPLIT_SEQUENCE = Sharding(
    parameters=ParameterAxes(heads=(), kv_heads=(), ffn=()),
    activations=ActivationAxes(
        sequence=("tensor",), query_sequence=("tensor",), ffn_sequence=("tensor",), heads=(), kv_heads=(), ffn=()
    ),
)
MESHES = {
    "data": (Mesh(data=8), Sharding()),
    "fsdp": (Mesh(data=1, fsdp=8), Sharding()),
    "tensor": (Mesh(data=1, tensor=4), Sharding()),
    "mix": (Mesh(data=2, fsdp=2, tensor=2), Sharding()),
    "sequence": (Mesh(data=2, fsdp=2, tensor=2), SPLIT_SEQUENCE),
    "megatron": (Mesh(data=4, fsdp=1, tensor=2), MEGATRON),
    "context": (Mesh(data=2, context=2, tensor=2), Sharding()),
}


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(
        model__vocab_size=64, model__mixer__num_kv_heads=4, schedule__peak=3e-3, training__clip_norm=0.5
    )


def devices_of(mesh):
    return jax.devices()[: num_devices(mesh)]


def train(experiment, mesh, start, batches):
    """Losses of the steps from a state on the host, and the parameters after them, by name."""
    state_config = StateConfig.of(experiment)
    state = jax.device_put(start, state_shardings(state_config, mesh, experiment.sharding))
    step, losses = compile_train_step(experiment, mesh), []
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    for batch in batches:
        state, metrics = step(state, feed.to_devices(batch, rows, experiment.data.batch_size, with_segments=True))
        losses.append(float(metrics["loss"]))
    return losses, {name: np.asarray(x) for name, x in flatten(state.all_params).items()}


@pytest.fixture(scope="module")
def alone(experiment):
    """The results of one device: the first state, the batches, the losses, the parameters."""
    return on_one_device(experiment)


@functools.cache
def on_one_device(experiment):
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    state_config = StateConfig.of(experiment)
    shardings = state_shardings(state_config, mesh, experiment.sharding)
    start = jax.device_get(init_sharded(state_config, experiment.training.seed, shardings))
    batches = [numbered_batch(experiment, n) for n in range(4)]
    return start, batches, *train(experiment, mesh, start, batches)


@pytest.fixture(scope="module")
def sharded_start(experiment):
    """The first state, made on eight devices."""
    state_config = StateConfig.of(experiment)
    shardings = state_shardings(state_config, make_mesh(MESHES["mix"][0]), Sharding())
    return init_sharded(state_config, experiment.training.seed, shardings)


def numbered_batch(experiment, n):
    draw = np.random.default_rng(n)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    return {
        "tokens": draw.integers(0, 64, shape, np.int32),
        "targets": draw.integers(0, 64, shape, np.int32),
        "weights": draw.integers(0, 2, shape).astype(np.float32),
        "segment_ids": np.sort(draw.integers(1, 3, shape, np.int32), axis=1),
        "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    }


@pytest.mark.parametrize("name", representatives(MESHES, "fsdp", "mix", "sequence", "context"))
def test_sharded_equals_one_device(name, experiment, alone):
    option, table = MESHES[name]
    mesh = make_mesh(option, devices_of(option))
    start, batches, expected_losses, expected = alone
    losses, params = train(dataclasses.replace(experiment, sharding=table), mesh, start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert len(set(expected_losses)) == 4
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


OVER_TENSOR, OVER_FSDP = (
    Sharding(parameters=ParameterAxes(expert=(axis,)), activations=ActivationAxes(expert=(axis,)))
    for axis in ("tensor", "fsdp")
)
EXPERT_MESHES = {
    "mix": (Mesh(data=2, fsdp=2, tensor=2), Sharding()),
    "expert": (Mesh(fsdp=2, expert=4), Sharding()),
    "over tensor": (Mesh(data=2, fsdp=1, tensor=4), OVER_TENSOR),
    "over fsdp": (Mesh(data=1, fsdp=4, tensor=2), OVER_FSDP),
}


@pytest.mark.parametrize(
    ("dispatch", "name"),
    [
        pytest.param("Dropless()", "mix", marks=SWEEP),
        ("Dropless()", "expert"),
        pytest.param("Capacity(factor=1.0)", "expert", marks=SWEEP),
        pytest.param("Dropless()", "over tensor", marks=SWEEP),
        pytest.param("Capacity(factor=1.0)", "over tensor", marks=SWEEP),
        pytest.param("Capacity(factor=1.0)", "over fsdp", marks=SWEEP),
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
        "model.mixer=GatedDelta(num_heads=4, num_key_heads=2, chunk=5)",
        "model.exceptions=(Except(layers='1', mixer=LSTM(num_heads=2)),)",
    ]
    experiment = functools.reduce(override, changes, experiment)
    start, batches, expected_losses, expected = on_one_device(experiment)
    losses, params = train(experiment, make_mesh(MESHES["mix"][0]), start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


@pytest.mark.sweep
def test_sharded_experts_with_norms_of_their_own(experiment):
    """Experts over tensor; their factors are split too, and the norms are not."""
    experts = "num_experts=8, top_k=2, expert=Gated(width=16), shared=Shared(ffn=Gated(width=16))"
    changes = [
        "model.initialization=Normal(std=0.2)",
        "optimizer.epsilon=1e-4",  # else Adam blows rounding up where a gradient is nearly 0
        "model.residual=Sandwich(ffn_input_norm=False)",
        f"model.ffn=Experts({experts}, router=SoftmaxRouter(norm=RMSNorm, expert_scale=True), branch_norms=RMSNorm)",
    ]
    experiment = functools.reduce(override, changes, experiment)
    start, batches, expected_losses, expected = on_one_device(experiment)
    option, table = EXPERT_MESHES["over tensor"]
    losses, params = train(
        dataclasses.replace(experiment, sharding=table), make_mesh(option, devices_of(option)), start, batches
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["mix", "sequence"])
def test_sharded_layers_that_share_keys_and_read_embeddings_of_their_own(name, experiment):
    """Three layers, of which the last sees the keys of the first; a table of vectors for each layer; global factors."""
    own = "num_heads=4, num_kv_heads=4, qk_norm=QKNorm"
    changes = [
        "model.initialization=Normal(std=0.2)",
        "optimizer.epsilon=1e-4",  # else Adam blows rounding up where a gradient is nearly 0
        "model.num_layers=3",
        f"model.mixer=GroupedQuery({own}, values_from_keys=True, value_norm=RMSNorm)",
        f"model.exceptions=(Except(layers='2', mixer=GroupedQuery({own}, kv_from_layer=0)),)",
        "model.per_layer_embedding=PerLayerEmbedding(width=8)",
        "model.stream_scale=0.7",
    ]
    experiment = functools.reduce(override, changes, experiment)
    start, batches, expected_losses, expected = on_one_device(experiment)
    option, table = MESHES[name]
    losses, params = train(
        dataclasses.replace(experiment, sharding=table), make_mesh(option, devices_of(option)), start, batches
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


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
    shards = {name: {s.data.shape for s in x.addressable_shards} for name, x in flatten(state.params).items()}
    assert shards["embedding.table"] == {(64 // 2, 32 // 2)}  # vocab over tensor, embed over fsdp
    assert shards["blocks.mixer.query"] == {(2, 32 // 2, 4 // 2, 8)}
    assert shards["blocks.mixer.output"] == {(2, 4 // 2, 8, 32 // 2)}
    assert shards["blocks.ffn.down"] == {(2, 64 // 2, 32 // 2)}
    assert shards["final_norm.scale"] == {(32 // 2,)}
    moments = {name: x for name, x in flatten(state.opt_state).items() if name.endswith("nu.blocks.ffn.down")}
    assert [{s.data.shape for s in x.addressable_shards} for x in moments.values()] == [{(2, 32, 16)}]
    # Two copies (data) of each of four shards, on eight devices.
    table = state.params["embedding"]["table"]
    assert sorted(s.replica_id for s in table.addressable_shards) == [0] * 4 + [1] * 4
    assert sum(s.data.size for s in table.addressable_shards) == 2 * table.size


def test_shards_hold_the_values_of_one_device(alone, sharded_start):
    sharded = flatten(sharded_start.all_params)
    for name, value in flatten(alone[0].all_params).items():
        np.testing.assert_array_equal(sharded[name], value, err_msg=name)
    assert len(np.unique(sharded["embedding.table"])) > 2000  # drawn at random, not filled


@SWEEP
def test_products_in_8_bits_have_the_scales_of_whole_rows_on_a_mesh(experiment, alone):
    """A sum that is rounded otherwise may take another 8-bit number, so parameters are compared by the 8 bits' effect."""
    start, batches, exact, exact_params = alone
    option, table = MESHES["mix"]
    experiment = dataclasses.replace(override(experiment, "model.precision.products=int8"), sharding=table)
    expected, expected_params = train(experiment, make_mesh(Mesh(), jax.devices()[:1]), start, batches)
    losses, params = train(experiment, make_mesh(option, devices_of(option)), start, batches)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert np.abs(np.subtract(exact, expected)).max() > 1e-4
    apart, effect = (
        np.sqrt(sum(np.square(other[name] - value).sum() for name, value in expected_params.items()))
        for other in (params, exact_params)
    )
    assert apart < 0.05 * effect
