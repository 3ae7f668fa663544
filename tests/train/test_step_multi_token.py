"""Multi-token prediction while training: what is minimised and logged, what micro-batches and a mesh change."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.parameters.names import flatten
from model.vocabulary.multi_token import MultiToken
from train.evaluation.validation import compile_eval_step
from train.optimizers.options import SGD
from train.parallel.mesh import Mesh, make_mesh
from train.state import StateConfig, init_sharded, init_state, state_shardings
from train.step import compile_train_step, train_step


@functools.cache
def compiled(experiment):
    return jax.jit(functools.partial(train_step, experiment, ONE_DEVICE))


@functools.cache
def start(experiment):
    return jax.jit(init_state, static_argnums=0)(StateConfig.of(experiment), 0)


@pytest.fixture(scope="module")
def make(tiny_experiment):
    """Plain gradient descent at rate 1, by which a step shows its gradient."""

    def made(**changes):
        plain = {"optimizer": SGD(momentum=0.0), "schedule": "Constant(peak=1.0)", "training__clip_norm": "None"}
        return tiny_experiment(**(plain | {"model__multi_token": MultiToken(depth=2, weight=0.5)} | changes))

    return made


def assert_close(one, other):
    for name, value in flatten(one).items():
        np.testing.assert_allclose(flatten(other)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_loss_that_is_reported_and_validated_is_the_main_one(make, random_batch):
    without, experiment = make(model__multi_token=None), make()
    batch = random_batch(experiment)
    (plain_state, plain), (state, metrics) = (compiled(e)(start(e), batch) for e in (without, experiment))
    assert set(metrics) - set(plain) == {"multi_token_loss"}
    assert float(metrics["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-6)
    assert 0.2 * 5 < float(metrics["multi_token_loss"]) < 0.5 * 6  # half of about ln 257, less where there is no label
    moved = [np.asarray(s.params["blocks"]["ffn"]["up"]) for s in (plain_state, state)]
    assert not np.allclose(*moved, atol=1e-5)
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    sums = [compile_eval_step(e, mesh)(start(e), batch) for e in (without, experiment)]
    assert set(sums[1]) == {"nll", "end_nll", "tokens"}
    assert float(sums[1]["nll"]) == pytest.approx(float(sums[0]["nll"]), rel=1e-6)


def test_accumulation_equals_the_large_batch(make, random_batch):
    """With as uneven masks as can be: a mean of the micro-batches' means would be another number."""
    experiment = make()
    batch = random_batch(experiment)
    batch["weights"][1::2] = 0
    batch["weights"][1, :3] = 1
    split = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, gradient_accumulation=2))
    (whole, expected), (summed, metrics) = (compiled(e)(start(experiment), batch) for e in (experiment, split))
    assert set(metrics) == set(expected)
    for name in metrics:
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    assert_close(whole.params, summed.params)


@pytest.mark.sweep
def test_sharded_equals_one_device(make, random_batch):
    experiment = make(model__vocab_size=258, model__num_layers=1, model__multi_token=MultiToken())
    mesh, table = make_mesh(Mesh(fsdp=2, tensor=2), jax.devices()[:4]), experiment.sharding
    state_config = StateConfig.of(experiment)
    state = init_sharded(state_config, 0, state_shardings(state_config, mesh, table))
    assert state.params["multi_token"]["projection"].addressable_shards[0].data.shape == (1, 64 // 2, 32)
    batch = random_batch(experiment)
    expected, metrics = compiled(experiment)(start(experiment), batch)
    state, sharded = compile_train_step(experiment, mesh)(state, batch)
    assert float(sharded["multi_token_loss"]) == pytest.approx(float(metrics["multi_token_loss"]), rel=1e-5)
    for name, value in flatten(expected.params).items():
        np.testing.assert_allclose(flatten(state.params)[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
