"""States of a run, and the checkpoints that they are kept in."""

import dataclasses

import jax
import numpy as np

from model.parameters.names import flatten
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints
from train.parallel.mesh import Mesh, make_mesh
from train.state import StateConfig, abstract_state, state_shardings


def shardings_on(experiment, devices=1, **axes):
    """The placements of a state on a mesh of so many devices."""
    mesh = make_mesh(Mesh(**axes), jax.devices()[:devices])
    return state_shardings(StateConfig.of(experiment), mesh, experiment.sharding)


def at_step(state, step, shardings=None):
    """The state as that of a step, every number moved, on the devices."""
    parts = {name: getattr(state, name) for name in ("params", "untrained", "opt_state")}
    moved = jax.tree.map(lambda x: np.asarray(x + np.asarray(step, x.dtype)), parts)
    numbered = dataclasses.replace(state, step=np.int32(step), **moved)
    return jax.device_put(numbered, shardings if shardings is not None else jax.devices()[0])


def open_store(run, said=None, **options):
    say = said.append if said is not None else lambda line: None
    return CheckpointStore(run, Checkpoints(**options), say)


def abstract_state_of(experiment):
    return abstract_state(StateConfig.of(experiment))


def restore_latest(run, experiment, said=None, shardings=None):
    with open_store(run, said) as store:
        return store.restore_latest(experiment, shardings or shardings_on(experiment), abstract_state_of(experiment))


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for name, value in flatten(one).items():
        assert value.dtype == flatten(other)[name].dtype
        assert np.asarray(value).tobytes() == np.asarray(flatten(other)[name]).tobytes(), name
