"""Blocks whose parts are stand-ins, so that the equation of a residual scheme can be written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.block import Block
from model.context import Context
from model.parameters.maker import Normal, ParameterMaker

X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
NORMS = {
    "mixer_norm": lambda x: 2 * x + 1,
    "mixer_output_norm": lambda x: 0.5 * x - 1,
    "ffn_norm": lambda x: 3 * x - 1,
    "ffn_output_norm": lambda x: 0.25 * x + 2,
}


class Cosine(nnx.Module):
    """A stand-in for the feed-forward layer."""

    def __call__(self, x, context):
        return jnp.cos(x)


def stood_in_(config, before=0):
    """A block with sin for attention, cos for the feed-forward layer, and the stand-ins above for norms it has."""
    make = ParameterMaker(jax.random.key(0), Normal(std=0.5), config.num_layers, "float32")
    block = Block(config, config.layers[0], make, before)
    block.mixer = block.mixer and (lambda x, context, cache: (jnp.sin(x), cache))
    block.ffn = block.ffn and Cosine()
    for name, stand_in in NORMS.items():
        if getattr(block.residual, name, None) is not None:
            setattr(block.residual, name, stand_in)
    return block


def assert_equation_(config, equation):
    """A block with stand-ins computes the equation, a function of the stream in float64."""
    got, _ = stood_in_(config)(X, Context(index_BT=jnp.arange(5)[None]), None)
    np.testing.assert_allclose(got, equation(X.astype(np.float64)), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="session")
def stood_in():
    return stood_in_


@pytest.fixture(scope="session")
def assert_equation():
    return assert_equation_
