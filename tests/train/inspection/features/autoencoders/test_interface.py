"""The parts that architectures share."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from tests.train.inspection.features.autoencoders.reference import parameters, tokens
from train.inspection.features.autoencoders.interface import Inputs, decode, decoder_norms, pre_activations
from train.inspection.features.autoencoders.relu import ReLU


def test_products_and_norms():
    params, (x, target, _) = parameters(), tokens()
    pre, out = pre_activations(params, x), decode(params, np.abs(tokens()[0]) @ params["encoder"])
    np.testing.assert_allclose(pre, x @ params["encoder"] + params["encoder_bias"])
    assert out.shape == target.shape
    np.testing.assert_allclose(decoder_norms(params), np.sqrt((params["decoder"] ** 2).sum(1)), rtol=1e-6)


def test_padding_counts_in_no_mean():
    inputs = Inputs(jnp.zeros((3, 1)), jnp.array([[1.0], [2.0], [50.0]]), jnp.array([1.0, 1.0, 0.0]))
    assert float(inputs.mean(jnp.array([2.0, 4.0, 99.0]))) == 3
    assert float(inputs.mean_square(jnp.zeros((3, 1)))) == 2.5
    assert float(Inputs(*inputs[:2], jnp.zeros(3)).mean(jnp.ones(3))) == 0


def test_a_warm_up_is_no_negative_number():
    with pytest.raises(UserError, match="warmup_steps: must be 0 or more"):
        check(ReLU(warmup_steps=-1))
