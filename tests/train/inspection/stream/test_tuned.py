"""The tuned lens is nowhere worse than the logit lens on held-out text; zero maps are the logit lens."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.residual import HyperConnections
from train.inspection.stream.lens import reading
from train.inspection.stream.tuned import Translators, train_translators, translate
from train.inspection.subject import Subject
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def test_training_lowers_the_divergence_on_held_out_text(run):
    found = train_translators(run, steps=30)
    assert found.kl_before_L.shape == (3,)
    assert (found.kl_after_L <= found.kl_before_L).all()
    assert found.kl_after_L[0] < 0.9 * found.kl_before_L[0]
    assert not found.translators.a_LDD[-1].any()  # the last layer is exact: no map is better, so it stays at zero
    ids = np.array([256, *b"the cat sees"], np.int32)
    tuned, plain = (reading(Subject.of(run), ids, each) for each in (found.translators, None))
    assert tuned.kl_LT[0].mean() < plain.kl_LT[0].mean()
    np.testing.assert_allclose(tuned.kl_LT[-1], 0, atol=1e-6)


def test_a_map_is_affine():
    x = np.random.default_rng(0).normal(size=(1, 2, 3)).astype(np.float32)
    a, b = np.arange(9, dtype=np.float32).reshape(3, 3), np.ones(3, np.float32)
    np.testing.assert_allclose(translate(Translators(a, b), jnp.asarray(x)), x + x @ a + b, rtol=1e-5)


def test_refused(run):
    with pytest.raises(UserError, match="--steps must be at least 1"):
        train_translators(run, steps=0)
    with pytest.raises(UserError, match=r"--corpus: the text has 5 tokens, and 256 are needed"):
        train_translators(run, corpus="a cat")
    model = dataclasses.replace(run.experiment.model, residual=HyperConnections(streams=2))
    other = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, model=model))
    with pytest.raises(UserError, match="HyperConnections has several; take the logit lens"):
        train_translators(other)
