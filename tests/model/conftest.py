"""What the tests of the model share: one small model, parameters that NumPy draws, and a compiled forward pass."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.attention import GroupedQuery
from model.config import ModelConfig
from model.feedforward import Gated
from model.transformer import abstract_params, forward


def small_config(**changes):
    """Two layers of width 16: rotary, RMSNorm, SwiGLU, two key heads for four query heads, tied."""
    base = ModelConfig(
        vocab_size=17,
        context_length=16,
        num_layers=2,
        width=16,
        attention=GroupedQuery(num_heads=4, num_kv_heads=2),
        ffn=Gated(width=24),
    )
    return dataclasses.replace(base, **changes)


def drawn_params(config, seed=0, scale=0.3):
    """Parameters of any model, all at random: biases are not 0 and norm weights are not 1, so that none can hide."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jax.numpy.asarray(centre + scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


@functools.partial(jax.jit, static_argnums=(0, 1))
def jitted(config, taps, params, tokens, options):
    output = forward(config, params, tokens, taps=taps, **options)
    return output.logits_BTV, output.cache, output.taps


def compiled_forward(config, params, tokens, taps=(), **options):
    """Logits, cache and taps of a jitted forward pass, compiled once for each config and shape."""
    return jitted(config, tuple(taps), params, tokens, options)


@pytest.fixture(scope="session")
def small():
    return small_config


@pytest.fixture(scope="session")
def drawn():
    return drawn_params


@pytest.fixture(scope="session")
def run():
    return compiled_forward


@pytest.fixture(scope="session")
def tokens():
    return np.random.default_rng(1).integers(0, 17, (2, 12)).astype(np.int32)
