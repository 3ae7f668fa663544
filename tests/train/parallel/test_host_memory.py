"""Moments and activations that wait in the memory of the host: the same numbers, kept elsewhere."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.options.assignments import override
from model.options.tree import check
from model.parameters.names import flatten
from model.recompute import HOST_MEMORY, SaveOnly
from model.transformer import abstract_params, forward
from tests.train.parallel.test_sharded_steps import numbered_batch
from tests.train.states import restore_latest
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints
from train.parallel import feed
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import layout_of
from train.run.checks import check_mesh
from train.state import StateConfig, init_sharded, state_shardings
from train.step import compile_train_step


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(model__vocab_size=64, model__num_layers=1, mesh=Mesh(data=2, fsdp=4))


def trained(experiment):
    """The state after two steps."""
    mesh, state_config = make_mesh(experiment.mesh), StateConfig.of(experiment)
    state = init_sharded(state_config, 0, state_shardings(state_config, mesh, experiment.sharding))
    step = compile_train_step(experiment, mesh)
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    for number in range(2):
        batch = numbered_batch(experiment, number)
        state, metrics = step(state, feed.to_devices(batch, rows, 8, with_segments=True))
    return state, metrics


def memories(tree):
    """The memory of every array, those of scalars apart."""
    leaves = flatten(tree).values()
    return {x.sharding.memory_kind for x in leaves if x.ndim}, {x.sharding.memory_kind for x in leaves if not x.ndim}


@pytest.mark.sweep
def test_moments_wait_on_the_host_and_the_numbers_are_the_same(experiment, tmp_path):
    """A checkpoint of them is that of moments on devices."""
    expected, expected_metrics = trained(experiment)
    state, metrics = trained(on_host := override(experiment, "sharding.moments='host'"))
    assert memories(state.opt_state) == ({HOST_MEMORY}, {"device"})
    assert memories(state.params)[0] == memories(expected.opt_state)[0] == {"device"}
    assert float(metrics["loss"]) == float(expected_metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    with CheckpointStore(tmp_path, Checkpoints(), lambda line: None) as store:
        store.save(on_host, state, 2, None)
        store.finish()
    for option in (experiment, on_host):
        shardings = state_shardings(StateConfig.of(option), make_mesh(option.mesh), option.sharding)
        restored = restore_latest(tmp_path, option, shardings=shardings)
        assert memories(restored.opt_state)[0] == {(option is on_host and HOST_MEMORY) or "device"}
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(expected))


def gradient(model, remat, params=None):
    """The gradient of a sum of logits; without parameters the program that computes it."""
    config, tokens = dataclasses.replace(model, remat=remat), jnp.arange(24).reshape(2, 12)
    function = jax.grad(lambda params: jnp.sum(forward(config, params, tokens).logits_BTV ** 2))
    return jax.make_jaxpr(function)(abstract_params(config)) if params is None else jax.jit(function)(params)


def test_taps_are_copied_to_the_host_for_the_backward_pass_and_back(experiment):
    """Each once, as the program says; the gradient is that of saving them on the device."""
    model = experiment.model
    params = jax.tree.map(lambda p: jnp.full(p.shape, 0.1, p.dtype), abstract_params(model))
    remat = SaveOnly(taps=("key",), offload=("query", "ffn_hidden"))
    expected = gradient(model, SaveOnly(taps=("key", "query", "ffn_hidden")), params)
    jax.tree.map(np.testing.assert_array_equal, gradient(model, remat, params), expected)
    text = str(gradient(model, remat))
    out, back = (
        len(re.findall(rf"MemorySpace.{space}|TransferToMemoryKind.*{space}", text)) for space in ("Host", "Device")
    )
    assert (out, back) == (2, 2), text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.remat=SaveOnly(taps=())", "model.remat.taps: name at least one"),
        ("model.remat=SaveOnly(taps=(), offload=('querry',))", "model.remat.offload: no tap is called 'querry'"),
        ("model.remat=SaveOnly(taps=(), offload=('query', 'query'))", "model.remat.offload: names 'query' twice"),
        ("model.remat=SaveOnly(taps=('query',), offload=('query',))", "model.remat.taps: offload names 'query' too"),
        ("sharding.moments='disk'", "sharding.moments: expected 'device' or 'host', got"),
    ],
)
def test_values_without_sense_are_refused(change, words, experiment):
    with pytest.raises(UserError) as error:
        check(override(experiment, change))
    assert words in str(error.value)


def test_an_average_that_is_evaluated_stays_on_the_devices(experiment):
    with pytest.raises(UserError, match=r"sharding.moments: 'host' keeps from the devices the average"):
        check(override(override(experiment, "optimizer=ScheduleFreeAdamW()"), "sharding.moments='host'"))


@pytest.mark.parametrize("change", ["sharding.moments='host'", "model.remat=SaveOnly(taps=(), offload=('query',))"])
def test_devices_without_memory_of_the_host_are_named(change, experiment, monkeypatch):
    check_mesh(override(experiment, change))
    monkeypatch.setattr("train.run.checks.HOST_MEMORY", "another_memory")
    with pytest.raises(UserError, match=r"a cpu device here has the memories device.* and no another_memory to copy"):
        check_mesh(override(experiment, change))
    check_mesh(experiment)
