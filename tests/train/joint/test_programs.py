"""The programs of stacked states: what they hold in memory, whom they update, and what a mesh splits."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from model.parameters.names import flatten
from train.hooks.programs import ALONE
from train.joint.programs import JointPrograms, MemberState
from train.parallel.mesh import make_mesh
from train.state import StateConfig, init_sharded, state_shardings

KEY = ("step", False, ())


def started(experiment, count=3):
    """The programs of members with seeds 0, 1, ..., their states, and a batch of each on the mesh."""
    experiments = [
        dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, seed=seed))
        for seed in range(count)
    ]
    programs = JointPrograms(experiments)
    mesh, config = make_mesh(experiment.mesh), StateConfig.of(experiment)
    shardings = state_shardings(config, mesh, experiment.sharding)
    states = [init_sharded(config, seed, shardings) for seed in range(count)]
    for index, state in enumerate(states):
        programs.put(index, state)
    draw = np.random.default_rng(0)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    batches = {
        index: jax.device_put(
            {
                "tokens": draw.integers(0, experiment.model.vocab_size, shape, np.int32),
                "targets": draw.integers(0, experiment.model.vocab_size, shape, np.int32),
                "weights": np.ones(shape, np.float32),
            },
            programs._rows,
        )
        for index in range(count)
    }
    return programs, states, batches


def plain(tiny_experiment, **changes):
    changes = {"model__num_layers": 1, "data__cross_document_attention": True, "optimizer__weight_decay": 0.0} | changes
    return tiny_experiment(**changes)


@pytest.fixture(scope="module")
def three(tiny_experiment):
    """Three members on eight devices, each with a row of every batch, and the compiled steps of all and of one."""
    programs, states, batches = started(plain(tiny_experiment))
    alone = ALONE.compile_step(programs.experiment, programs._mesh).lower(states[0], batches[0]).compile()
    return programs, states, batches, programs.compile_step(KEY, None, batches[0]), alone


def nbytes(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_the_step_holds_one_state_for_each_member(three):
    _, states, batches, compiled, alone = three
    memory = compiled.memory_analysis()
    of_states, of_batches = 3 * nbytes(states[0]), 3 * nbytes(batches[0]) // 8  # on a device
    assert of_states <= memory.alias_size_in_bytes <= 1.02 * of_states  # the new states are where the old ones were
    assert memory.argument_size_in_bytes <= 1.02 * (of_states + of_batches)
    assert memory.output_size_in_bytes <= 1.02 * of_states + 4096  # and scalars
    # Beside gradients and activations there is no other copy: three members need what three steps alone would.
    assert memory.temp_size_in_bytes <= 3.3 * alone.memory_analysis().temp_size_in_bytes


def test_only_those_with_a_batch_are_updated(three):
    programs, states, batches, _, alone = three
    before = [flatten(jax.device_get(programs.take(index))) for index in range(3)]
    metrics = programs.step(KEY, None, {1: batches[1]})
    after = [flatten(jax.device_get(MemberState(programs, index).take())) for index in range(3)]
    for index in (0, 2):
        assert all(np.array_equal(before[index][name], x) for name, x in after[index].items())
    assert (before[1]["step"], after[1]["step"]) == (0, 1)
    assert programs.steps == [0, 1, 0]
    expected, scalars = alone(states[1], batches[1])
    assert float(metrics[1]["loss"]) == pytest.approx(float(scalars["loss"]), rel=1e-6)
    for name, x in flatten(expected.params).items():
        np.testing.assert_allclose(after[1][f"params.{name}"], x, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_state_comes_back_as_it_was_put(three):
    programs, states, *_ = three
    programs.put(2, states[2])
    for name, x in flatten(states[2]).items():
        np.testing.assert_array_equal(flatten(programs.take(2))[name], x, err_msg=name)


@pytest.mark.sweep
def test_on_a_mesh_each_member_is_split_as_alone(tiny_experiment):
    """Data, FSDP and tensor axes; the stacked axis is whole, and the collectives are those of the step alone."""
    experiment = plain(tiny_experiment, mesh__data=2, mesh__fsdp=2, mesh__tensor=2, sharding__parameters__vocab=())
    programs, states, batches = started(experiment, count=2)
    metrics = programs.step(KEY, None, batches)
    step = ALONE.compile_step(experiment, programs._mesh)
    for index, state in enumerate(states):
        expected, scalars = step(state, batches[index])
        assert float(metrics[index]["loss"]) == pytest.approx(float(scalars["loss"]), rel=1e-6)
        found = programs.take(index)
        for name, x in flatten(expected.params).items():
            assert flatten(found.params)[name].sharding.is_equivalent_to(x.sharding, x.ndim), name
            np.testing.assert_allclose(flatten(found.params)[name], x, rtol=1e-4, atol=1e-5, err_msg=name)
