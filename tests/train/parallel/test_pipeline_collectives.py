"""The collectives of a training step in stages: neighbours exchange micro-batches; parameters stay in their stages."""

import collections
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from model.parameters.names import flatten
from tests.train.parallel.test_collectives import KINDS, collectives, loop_bodies, sizes_of
from tests.train.parallel.test_sharded_steps import devices_of
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding
from train.state import StateConfig, abstract_state
from train.step import compile_train_step

B, T, D, V, LAYERS = 8, 16, 32, 64, 4
STEPS = {
    "stages": (Mesh(data=1, stage=4), Sharding(), 4),
    "chunks": (Mesh(data=1, stage=2), Sharding(chunks=2), 4),
    "fsdp": (Mesh(data=1, stage=2, fsdp=2), Sharding(), 4),
}


def compiled(tiny_experiment, name):
    """The step, and the experiment."""
    mesh, table, parts = STEPS[name]
    changes = {"model__num_layers": LAYERS, "model__vocab_size": V, "training__gradient_accumulation": parts}
    experiment = tiny_experiment(**changes, model__remat="full", samples__prompts="()")
    experiment = dataclasses.replace(experiment, mesh=mesh, sharding=table)
    state = abstract_state(StateConfig.of(experiment))
    fields = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32, "segment_ids": jnp.int32}
    batch = {field: jax.ShapeDtypeStruct((B, T), dtype) for field, dtype in fields.items()}
    step = compile_train_step(experiment, make_mesh(mesh, devices_of(mesh)))
    return step.lower(state, batch).compile(), experiment


def numbers_sent(text):
    """Collectives of floating-point arrays that are larger than (B, T), the weights of targets."""
    found = collectives(text)
    return {key: n for key, n in found.items() if key[1] != "s32" and math.prod(key[2]) > B * T}


def layer_shapes(experiment, whole):
    """The sizes of every parameter of a layer, or of its stack."""
    params = flatten(abstract_state(StateConfig.of(experiment)).params)
    stacks = {name: x.shape for name, x in params.items() if name.startswith("blocks.")}
    return {sizes_of(*(shape if whole else (1, *shape[1:]))) for shape in stacks.values()}


def test_neighbours_exchange_one_micro_batch_a_tick(tiny_experiment):
    """Forward and backward: the stream to the next stage, a waiting micro-batch and a result to the one before."""
    step, _ = compiled(tiny_experiment, "stages")
    found = numbers_sent(step.as_text())
    micro_batch = sizes_of(1, B // 4, T, D)
    assert found.pop(("collective-permute", "f32", micro_batch)) == 6
    inside = collections.Counter()
    for body in loop_bodies(step.as_text()):
        inside += collectives(body)
    assert {key: n for key, n in inside.items() if key[1] == "f32"} == {("collective-permute", "f32", micro_batch): 6}
    # Bytes that a stage receives in a step: 3 streams of B / M rows in each of M + S - 1 ticks, forward and backward.
    ticks = 4 + 4 - 1
    assert 6 * 4 * math.prod(micro_batch) * ticks == 6 * (B * T * D * 4 // 4) * ticks == 172_032
    # The rest is outside of the layers: gradients of what every stage holds, the token table.
    assert found == {("all-reduce", "f32", sizes_of(V, D)): 2}, found


@pytest.mark.sweep
def test_chunks_move_once_a_step_to_their_stages_and_their_gradients_back(tiny_experiment):
    step, experiment = compiled(tiny_experiment, "chunks")
    text = step.as_text()
    found = numbers_sent(text)
    matrices = {sizes for sizes in layer_shapes(experiment, whole=False) if math.prod(sizes) > B * T}
    moved = {key[2]: n for key, n in found.items() if key[0] == "collective-permute" and key[2] in matrices}
    assert set(moved) == matrices
    # 2 rounds, forward and backward; gate and up have one shape, so have key and value, query and output.
    assert sum(moved.values()) == 4 * len([n for n in layer_shapes_by_name(experiment) if n in LARGE])
    assert found[("collective-permute", "f32", sizes_of(1, B // 4, T, D))] == 6
    assert {kind for kind, _, sizes in found if sizes not in (sizes_of(V, D),)} == {"collective-permute"}


LARGE = {"blocks.mixer.query", "blocks.mixer.key", "blocks.mixer.value", "blocks.mixer.output"} | {
    f"blocks.ffn.{name}" for name in ("gate", "up", "down")
}


def layer_shapes_by_name(experiment):
    return [name for name in flatten(abstract_state(StateConfig.of(experiment)).params) if name.startswith("blocks.")]


@pytest.mark.sweep
def test_fsdp_inside_of_stages_gathers_one_layer_of_its_own(tiny_experiment):
    step, experiment = compiled(tiny_experiment, "fsdp")
    gathered = {sizes for kind, _, sizes in numbers_sent(step.as_text()) if kind == "all-gather"}
    layers = layer_shapes(experiment, whole=False)
    assert {sizes_of(1, D, 64), sizes_of(1, D, 4, 8)} <= gathered
    assert gathered - layers == {sizes_of(V, D)}, gathered - layers  # the token table
    assert not re.search(rf"({KINDS})[^\n]*f32\[2,{D},64", step.as_text())
