"""One update against its definition, resampling in the state, and the same numbers on every mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.inspection.features.conftest import features_of
from train.inspection.features.autoencoders import ReLU, Resampling
from train.inspection.features.autoencoders.interface import Inputs
from train.inspection.features.training.settings import Adam, Autoencoder, Features
from train.inspection.features.training.state import init
from train.inspection.features.training.step import Programs, resample, update
from train.inspection.features.training.stream import ActivationStream
from train.parallel.mesh import Mesh
from train.schedules import Constant

OPTION = Autoencoder(name="a", width=7, architecture=ReLU(l1=0.1, resampling=Resampling(every=3)))
SETTINGS = Features(
    autoencoders=(OPTION,), schedule=Constant(peak=0.01), clip_norm=0.5, dead_after=20, optimizer=Adam(b1=0.8, b2=0.9)
)


@pytest.fixture(scope="module")
def state():
    measured = (jnp.float32(1.0), jnp.zeros(4)), (jnp.float32(1.0), jnp.zeros(4))
    made = init(OPTION, SETTINGS.optimizer, (4, 4), measured, jax.random.key(0))
    bias = made.params["encoder_bias"].at[2].set(-100.0)  # a feature that never fires
    return dataclasses.replace(made, params=made.params | {"encoder_bias": bias})


@pytest.fixture(scope="module")
def inputs():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    return Inputs(x, x, jnp.array([1.0] * 5 + [0.0]))


def test_an_update_by_its_definition(state, inputs):
    next_state, metrics = jax.jit(lambda s, i: update(OPTION, SETTINGS, s, i, jnp.int32(0)))(state, inputs)

    def loss(params):
        centred = inputs._replace(x_BD=inputs.x_BD - params["decoder_bias"])
        return OPTION.architecture.loss(params, centred, jnp.zeros(7, bool), jnp.int32(0)).total

    grads = jax.device_get(jax.jit(jax.grad(loss))(state.params))
    rows, directions = grads["decoder"], np.asarray(state.params["decoder"])
    grads["decoder"] = np.stack([g - (g @ d) * d for g, d in zip(rows, directions)])
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    clipped = {name: g * min(1, 0.5 / norm) for name, g in grads.items()}
    for name, g in clipped.items():
        moved = np.asarray(state.params[name]) - 0.01 * g / (np.abs(g) + 1e-8)  # Adam's first step
        if name == "decoder":
            moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        np.testing.assert_allclose(next_state.params[name], moved, rtol=2e-4, atol=2e-6, err_msg=name)
    assert next_state.silent_M[2] == 5
    assert np.sum(next_state.silent_M == 0) >= 4
    assert float(metrics["loss"]) == pytest.approx(float(loss(state.params)), rel=1e-5)


def test_dead_features_begin_again_in_the_state(state, inputs):
    after = jax.jit(lambda s, i: update(OPTION, SETTINGS, s, i, jnp.int32(0)))(state, inputs)[0]
    after = dataclasses.replace(after, silent_M=after.silent_M.at[2].set(20))
    made = jax.jit(lambda s, i: resample(OPTION, SETTINGS, s, i, jnp.int32(3)))(after, inputs)
    assert made.silent_M[2] == 0
    assert made.params["encoder_bias"][2] == 0
    for moment in (made.moments.mu, made.moments.nu):
        assert np.all(np.asarray(moment["decoder"][2]) == 0)
        assert np.all(np.asarray(moment["encoder"][:, 2]) == 0)
        assert np.any(np.asarray(moment["decoder"][0]) != 0)
    for name in ("encoder_bias", "decoder_bias"):
        np.testing.assert_array_equal(np.delete(made.params[name], 2), np.delete(after.params[name], 2))


@pytest.mark.sweep
def test_every_mesh_gives_the_same_numbers(loaded):
    """Whole parameters on every device, and features split over `tensor`: losses up to rounding."""
    found = []
    for mesh in (Mesh(data=8), Mesh(data=2, fsdp=2, tensor=2)):
        run = loaded.on(mesh)
        features = features_of()
        activations = ActivationStream(run, features)
        programs = Programs(features, 2, activations.widths, run.layout)
        block = activations.block(0)
        states, losses = programs.init(block), []
        for step in range(3):
            states, metrics = programs.step(states, block, np.int32(64 * step), np.int32(step))
            losses.append([float(metrics[name]["loss"]) for name in ("top", "relu", "through")])
        found.append(losses)
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3)
