"""A small model whose likeliest token wins by more than rounding, and a check of greedily generated texts."""

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.inference.sampling import Sampling
from model.parameters.maker import Normal
from model.transformer import forward, init

# A wide initialisation, so that the likeliest token wins by more than rounding.
CONFIG = ModelConfig(
    vocab_size=61,
    context_length=24,
    num_layers=2,
    width=16,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
    ffn=MLP(width=32),
    initialization=Normal(std=0.4, scale_residual=False),
)
GREEDY = Sampling(temperature=0, max_tokens=100)


def prompts_of(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, CONFIG.vocab_size, n).tolist() for n in lengths]


def draw(config):
    return jax.jit(init, static_argnums=0)(config, jax.random.key(0))


def assert_greedy(config, params, prompts, texts):
    """Every new token is the likeliest after the tokens before it, by the forward pass without a cache."""
    ids = np.zeros((len(prompts), config.context_length), np.int32)
    for row, prompt, text in zip(ids, prompts, texts, strict=True):
        both = (prompt + text)[: config.context_length]
        row[: len(both)] = both
    likeliest = jax.jit(lambda params, ids: jnp.argmax(forward(config, params, ids).logits_BTV, axis=-1))(params, ids)
    for row, prompt, text in zip(np.asarray(likeliest), prompts, texts, strict=True):
        np.testing.assert_array_equal(text, row[len(prompt) - 1 :][: len(text)])
