"""The measures of an evaluation, against NumPy, and the model that computes with what an autoencoder writes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.inspection.features.training import folder as folders
from train.inspection.features.training.measures import Evaluation, density_histogram
from train.inspection.features.training.step import Programs
from train.inspection.features.training.stream import ActivationStream


@pytest.fixture(scope="module")
def evaluated(trained):
    activations = ActivationStream(trained.run, trained.features)
    programs = Programs(trained.features, 2, activations.widths, trained.run.layout)
    abstract = jax.eval_shape(programs.init, programs.abstract_block())
    states, step = folders.restore(trained.folder, abstract, programs.place)
    assert step == 12
    evaluation = Evaluation(activations, trained.features)
    return activations, evaluation, states


def test_measures_are_those_of_the_last_evaluation(evaluated, trained):
    from train.run.metrics import read_metrics

    found = evaluated[1](evaluated[2])
    last = {line["name"]: line for line in read_metrics(trained.folder) if line["kind"] == "eval"}
    for name, measures in found.items():
        assert measures.scalars() == {key: pytest.approx(last[name][key], rel=1e-6) for key in measures.scalars()}
        assert measures.density_M.sum() == pytest.approx(measures.l0)
        assert measures.loss_with_zeros != measures.loss


def test_variance_and_l0_are_those_of_numpy(evaluated, trained):
    from train.inspection.features.training.measures import write
    from train.inspection.features.training.sae_lens import read_autoencoder

    activations, evaluation, states = evaluated
    read = read_autoencoder(trained.folder / "autoencoders" / "top")
    params = {name: jnp.asarray(x) for name, x in read.params.items()}
    x, features = [], []
    get = jax.jit(activations.activations)
    for batch in evaluation.batches:
        real = ((batch["segment_ids"] > 0) & (batch["positions"] >= 1)).ravel()
        found = np.asarray(get(trained.run.params, activations.to_devices(batch))[read.into])
        x.append(found.reshape(-1, 32)[real])
        features.append(np.asarray(write(read.option, params, jnp.asarray(x[-1])[None])[0][0]))
    x, features = np.concatenate(x).astype(np.float64), np.concatenate(features)
    output = features @ read.params["decoder"] + read.params["decoder_bias"]
    measures = evaluation(states)["top"]
    error, spread = np.square(x - output).sum(), np.square(x - x.mean(0)).sum()
    assert measures.explained_variance == pytest.approx(1 - error / spread, abs=2e-3)
    assert measures.l0 == pytest.approx((features > 0).sum(1).mean(), rel=1e-4)
    assert measures.tokens == len(x)


def test_a_perfect_output_recovers_the_loss_and_zeros_recover_nothing(evaluated, trained):
    """With as many features as directions and their opposites, an autoencoder can write anything."""
    activations, evaluation, states = evaluated
    perfect, nothing = dict(states), dict(states)
    top = trained.features.autoencoders[0]
    assert (top.width, activations.widths[evaluation.sites["top"][0]]) == (48, 32)
    # BatchTopK's threshold -inf passes all of its features on: 24 of them write a subspace, zeros write nothing.
    through = states["through"]
    zero = {name: jnp.zeros_like(x) for name, x in through.params.items()}
    nothing["through"] = dataclasses.replace(through, params=zero)
    assert evaluation(nothing)["through"].loss_recovered == pytest.approx(0, abs=1e-3)
    relu = states["relu"]
    eye = jnp.eye(32)
    encoder = jnp.concatenate([eye, jnp.zeros((32, 8))], axis=1)
    params = relu.params | {
        "encoder": encoder,
        "decoder": encoder.T,
        "encoder_bias": jnp.full(40, 1000.0),  # keeps every entry above 0
        "decoder_bias": jnp.zeros(32),
    }
    scale = relu.input_scale
    shifted = params | {"decoder_bias": -1000.0 * jnp.ones(32)}
    # f = x - b_dec + bias - 1000 with b_dec = -1000; y = f - 1000 = x
    shifted |= {"encoder_bias": jnp.zeros(40)}
    perfect["relu"] = dataclasses.replace(relu, params=shifted, input_scale=scale)
    found = evaluation(perfect)["relu"]
    assert found.loss_with_output == pytest.approx(found.loss, abs=1e-4)
    assert found.loss_recovered == pytest.approx(1, abs=0.05)


def test_a_histogram_of_densities():
    counts, never = density_histogram(np.array([0.0, 1.0, 0.5, 1e-4, 0.0]))
    assert (sum(counts), never) == (3, 2)
    assert counts[-1] == 1 or counts[-2] == 1
