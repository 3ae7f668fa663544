"""Whole training steps of mixtures of experts on a mesh with an expert axis: what they send, and their formats."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.feedforward.exchange import places
from model.options.assignments import override
from model.parameters.names import flatten
from tests.train.parallel.test_collectives import collectives
from tests.train.parallel.test_sharded_steps import devices_of, on_one_device, train
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.planner.program import collectives_of
from train.parallel.table import layout_of
from train.state import StateConfig, abstract_state, state_shardings
from train.step import compile_train_step

B, T, V, D, F, E, R, LAYERS = 8, 16, 64, 32, 24, 8, 2, 2
MESH = Mesh(data=1, fsdp=2, expert=4)


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return override(
        tiny_experiment(model__vocab_size=V, model__mixer__num_kv_heads=4),
        f"model.ffn=Experts(num_experts={E}, top_k={R}, expert=Gated(width={F}), "
        "balance_loss=BalanceLoss(coefficient=0.1))",
    )


def compiled(experiment):
    """The text of the step, with its inputs where training has them."""
    mesh, config = make_mesh(MESH), StateConfig.of(experiment)
    shardings = state_shardings(config, mesh, experiment.sharding)
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    fields = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((B, T), dtype, sharding=rows) for name, dtype in fields.items()}
    return compile_train_step(experiment, mesh).lower(
        jax.tree.map(place, abstract_state(config), shardings), batch
    ).compile().as_text()  # fmt: skip


def test_tokens_travel_to_experts_and_no_device_gathers_the_experts_of_others(experiment):
    """A device has one row of the batch and two experts, half of each matrix of theirs; numbers have four bytes."""
    text = compiled(experiment)
    received = {(one.kind, one.axes): one.received for one in collectives_of(text, dict(make_mesh(MESH).shape))}
    # Rows for the experts: there and back, and in the backward pass there, there and back; and how many come.
    rows, own = 4 * places(B * T * R // 8, 4) * D, 4 * E // 4
    assert received.pop(("all-to-all", ("expert",))) == LAYERS * (5 * 3 / 4 * rows * 4 + 3 / 4 * own * 4)
    # Three matrices of two experts, from the two devices that share them: twice, and their gradients once.
    matrices = 3 * (E // 4) * D * F * 4
    assert received.pop(("all-gather", ("fsdp",))) == LAYERS * 2 * 1 / 2 * matrices
    assert received.pop(("reduce-scatter", ("fsdp",))) == LAYERS * 1 / 2 * matrices
    # All that is no expert's: matrices of attention, router and norms of a layer, and the tables of tokens.
    layer, outside = 4 * D * D + D * E + 2 * D, 2 * V * D + D
    assert received.pop(("all-gather", ("fsdp", "expert"))) <= 7 / 8 * 4 * (2 * LAYERS * layer + 2 * outside + B * T)
    assert received.pop(("all-to-all", ("fsdp", "expert"))) == 2 * 7 / 8 * T * D * 4  # tokens that are looked up
    assert {kind for kind, _ in received} <= {"reduce-scatter", "all-reduce"}
    assert sum(received.values()) <= 7 / 8 * 4 * (LAYERS * layer + 2 * outside) * 2
    # No array that is sent is as large as a matrix of all experts, or as the tokens of all devices.
    largest = max(math.prod(sizes) for _, _, sizes in collectives(text))
    assert largest == V * D < min(E * D * F, B * T * D)


@pytest.mark.sweep
@pytest.mark.parametrize("mesh", [MESH, Mesh(data=1, expert=2, tensor=2)], ids=["fsdp, expert", "expert, tensor"])
def test_bfloat16_with_float32_parameters_trains_as_on_one_device(mesh, experiment):
    """Four steps on a mesh end nearer to those of one device than these do to four steps in float32."""
    changes = ("optimizer.epsilon=1e-4", "model.initialization=Normal(std=0.2)")
    exact = functools.reduce(override, changes, experiment)
    rounded = override(exact, "model.precision.compute='bfloat16'")
    start, batches, expected_losses, expected = on_one_device(rounded)
    *_, exact_losses, exact_params = on_one_device(exact)
    losses, params = train(rounded, make_mesh(mesh, devices_of(mesh)), start, batches)
    assert {p.dtype for p in params.values()} == {np.dtype(np.float32)}

    def distance(one, other):
        return math.sqrt(sum(float(np.sum((one[name] - other[name]) ** 2)) for name in expected))

    assert 0 < distance(params, expected) < distance(exact_params, expected) < distance(flatten(start.params), expected)
    off, rounding = (np.abs(np.subtract(one, expected_losses)).max() for one in (losses, exact_losses))
    assert off < 2 * rounding < 0.05  # devices that share an expert's width add up rounded numbers
