"""Sequences split over the mesh axis `context`: training computes what one device computes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.encoder.source import PADDING
from model.errors import UserError
from model.options.assignments import override
from model.parameters.names import flatten
from train.parallel import feed
from train.parallel.mesh import Mesh, make_mesh, num_devices
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of
from train.run.checks import check_mesh
from train.state import StateConfig, init_sharded, state_shardings
from train.step import compile_train_step

WHOLE_KEY_HEADS = ParameterAxes(kv_heads=())  # tensor need not divide them
GATHER = Sharding(parameters=WHOLE_KEY_HEADS)
RING = Sharding(parameters=WHOLE_KEY_HEADS, activations=ActivationAxes(key_sequence=("context",)))
UNBALANCED = dataclasses.replace(RING, balanced=False)
TABLES = {"gather": GATHER, "ring": RING, "unbalanced ring": UNBALANCED}

ENCODER = "mixer=GroupedQuery(num_heads=4, num_kv_heads=2), ffn=MLP(width=48)"
CROSS = "cross=CrossAttention(num_heads=4, num_kv_heads=2"
WINDOW = "pattern=SlidingWindow(size=5)"
EVERYTHING = "num_heads=4, num_kv_heads=2, qk_norm=QKNorm, logit_softcap=5.0, sinks=True"
BUCKETS = "RelativeBias(buckets=6, max_distance=12, shared=True"
# Two layers each; documents are packed in all of them.
MODELS = {
    "everything": [
        f"model.mixer=GroupedQuery({EVERYTHING})",
        f"model.exceptions=(Except(layers='1', mixer=GroupedQuery({EVERYTHING}, {WINDOW})),)",
    ],
    "multi-query": ["model.mixer=GroupedQuery(num_heads=4, num_kv_heads=1)", "model.position=Learned()"],
    "latent": [
        "model.mixer=Latent(num_heads=4, kv_rank=8, query_rank=8, head_dim=8, rotary_head_dim=4, value_head_dim=6)"
    ],
    "ALiBi": ["model.position=ALiBi()"],
    "trained bias": ["model.position=RelativeBias(buckets=6, max_distance=12)"],
    "shared keys and values": [
        "model.num_layers=3",
        "model.mixer=GroupedQuery(num_heads=4, num_kv_heads=2, value_residual=ValueResidual)",
        "model.exceptions=(Except(layers='2', mixer=GroupedQuery(num_heads=4, num_kv_heads=2, kv_from_layer=0)),)",
    ],
    "recurrences": [
        "model.position=NoPositions",
        "model.mixer=GatedDelta(num_heads=4, num_key_heads=2, chunk=5)",
        "model.exceptions=(Except(layers='1', mixer=LSTM(num_heads=2)),)",
    ],
    "rematerialised": ["model.remat=full", "model.mixer=GroupedQuery(num_heads=4, num_kv_heads=2, sinks=True)"],
    "convolutions": [
        "model.position=NoPositions",
        "model.mixer=StateSpace(num_heads=4, state_dim=4, chunk=4)",
        "model.exceptions=(Except(layers='1', mixer=GRU(num_heads=2)),)",
    ],
    "later tokens": ["model.multi_token=MultiToken(depth=2)"],
    "both sides": ["model.visibility=Bidirectional()", "objective=MaskedTokens(rate=0.4)"],
    "encoder": [
        f"model.position={BUCKETS})",
        f"model.encoder=Encoder(num_layers=2, context_length=20, {ENCODER}, position={BUCKETS}, bidirectional=True), "
        f"{CROSS}, qkv_bias=True, output_bias=True, qk_norm=QKNorm(after_positions=False)))",
    ],
    # Sources as long as their targets: keys of both are gathered, or travel, in the same way.
    "encoder of equal length": [
        f"model.encoder=Encoder(num_layers=1, context_length=16, {ENCODER}, {CROSS}))",
    ],
}
MESHES = {
    "alone": Mesh(data=1, context=2),
    "four alone": Mesh(data=1, context=4),
    "data": Mesh(data=2, context=4),
    "fsdp": Mesh(data=1, fsdp=4, context=2),
    "tensor": Mesh(data=1, context=2, tensor=4),
    "mix": Mesh(data=2, context=2, tensor=2),
    "fsdp, tensor": Mesh(data=1, fsdp=2, context=2, tensor=2),
}


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(
        model__vocab_size=64,
        model__initialization="Normal(std=0.2)",
        schedule__peak=3e-3,
        training__clip_norm=0.5,
        optimizer__epsilon=1e-4,  # else Adam blows rounding up where a gradient is nearly 0
    )


def train(experiment, mesh, start, batches):
    """Losses of the steps from a state on the host, and the parameters after them, by name."""
    mesh = make_mesh(mesh, jax.devices()[: num_devices(mesh)])
    state = jax.device_put(start, state_shardings(StateConfig.of(experiment), mesh, experiment.sharding))
    step, losses = compile_train_step(experiment, mesh), []
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    for batch in batches:
        state, metrics = step(state, feed.to_devices(batch, rows, experiment.data.batch_size, with_segments=True))
        losses.append(float(metrics["loss"]))
    return losses, {name: np.asarray(x) for name, x in flatten(state.all_params).items()}


@functools.cache
def on_one_device(experiment, make_batch):
    """The first state, the batches, the losses and the parameters."""
    mesh, config = Mesh(data=1), StateConfig.of(experiment)
    shardings = state_shardings(config, make_mesh(mesh, jax.devices()[:1]), experiment.sharding)
    start = jax.device_get(init_sharded(config, experiment.training.seed, shardings))
    batches = [make_batch(experiment, n) for n in range(3)]
    return start, batches, *train(experiment, mesh, start, batches)


def check(experiment, make_batch, model, mesh, table):
    experiment = functools.reduce(override, MODELS[model], experiment)
    start, batches, expected_losses, expected = on_one_device(experiment, make_batch)
    losses, params = train(dataclasses.replace(experiment, sharding=TABLES[table]), mesh, start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert len(set(expected_losses)) == 3
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


@pytest.fixture(scope="module")
def make_batch():
    def make(experiment, n):
        """Noise, with documents and padding."""
        draw = np.random.default_rng(n)
        shape = (experiment.data.batch_size, experiment.data.sequence_length)
        index = np.arange(shape[1], dtype=np.int32)
        starts, ends = (
            draw.integers(1, shape[1], (shape[0], 1)),
            draw.integers(shape[1] // 2, shape[1] + 1, (shape[0], 1)),
        )
        second, real = index >= starts, index < ends
        if experiment.model.encoder is not None:
            return pairs(draw, shape, real, experiment.model.encoder.context_length)
        return {
            "tokens": draw.integers(0, 64, shape, np.int32),
            "targets": draw.integers(0, 64, shape, np.int32),
            "weights": (real & (index != starts - 1)).astype(np.float32),
            "segment_ids": np.where(real, 1 + second, 0).astype(np.int32),
            "positions": np.where(second, index - starts, index).astype(np.int32),
        } | ({"text": real.astype(np.int8)} if "text" in experiment.objective.fields else {})

    return make


def pairs(draw, shape, real, count):
    """Noise: targets, and sources of at most `count` tokens."""
    ends = draw.integers(count // 2, count + 1, (shape[0], 1))
    return {
        "tokens": draw.integers(0, 64, shape, np.int32),
        "targets": draw.integers(0, 64, shape, np.int32),
        "weights": real.astype(np.float32),
        "source": draw.integers(0, 64, (shape[0], count), np.int32),
        "source_segment_ids": np.where(np.arange(count) < ends, 0, PADDING).astype(np.int32),
    }


def test_a_ring_equals_one_device(experiment, make_batch):
    check(experiment, make_batch, "everything", MESHES["mix"], "ring")


@pytest.mark.sweep
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_equals_one_device(mesh, table, experiment, make_batch):
    check(experiment, make_batch, "everything", MESHES[mesh], table)


@pytest.mark.sweep
@pytest.mark.parametrize("table", ["gather", "ring"])
@pytest.mark.parametrize("model", list(MODELS)[1:])
def test_every_model_equals_one_device(model, table, experiment, make_batch):
    check(experiment, make_batch, model, MESHES["mix"], table)


@pytest.mark.sweep
@pytest.mark.parametrize("model", ["both sides", "encoder"])
def test_models_that_see_later_tokens_equal_one_device_without_a_context_axis(model, experiment, make_batch):
    check(experiment, make_batch, model, Mesh(data=2, fsdp=2, tensor=2), "gather")


def test_sources_that_the_mesh_does_not_divide_are_refused(experiment):
    changes = [
        *MODELS["encoder"],
        "mesh=Mesh(data=1, context=4)",
        "data=Pairs(path='x', batch_size=8, source_length=18)",
    ]
    experiment = functools.reduce(override, changes, experiment)
    mesh = make_mesh(experiment.mesh, jax.devices()[:4])
    with pytest.raises(UserError, match=r"^data\.source_length: 18 tokens cannot be split 4 ways"):
        check_mesh(experiment, mesh)
    check_mesh(override(experiment, "data.source_length=20"), mesh)
