"""The same numbers from Cairn: a Hugging Face folder as config and parameters, logits, gradients, greedy continuations."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from model.families import family_of
from model.families.weights import by_name
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.transformer import abstract_params, forward

GRADIENT_OF = "gradient of "  # in the names of recorded numbers


def fingerprint(x):
    """The norm of an array, and its product with a fixed vector."""
    flat = np.asarray(x, np.float64).reshape(-1)
    return np.array([np.linalg.norm(flat), flat @ np.cos(np.arange(flat.size))])


def load(folder):
    """Family, config and float32 parameters of a folder."""
    published = json.loads((pathlib.Path(folder) / "config.json").read_text())
    arrays = {name: x for path in pathlib.Path(folder).glob("*.safetensors") for name, x in load_file(path).items()}
    family = family_of(published)
    config = family.config_of(published)
    return family, config, params_of(family, config, arrays)


def tensors_of(family, config, params):
    """The inverse of `params_of`."""
    flat, table = by_name(params), family.tensors(config)
    return {
        name: tensor.put_together([np.asarray(flat[part.parameter][part.index]) for part in tensor.parts])
        for name, tensor in table.items()
        if not tensor.copy
    }


def params_of(family, config, arrays):
    """Parameters from tensors; all of them must be known, and of the shapes that the table says."""
    tree = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), abstract_params(config))
    flat, table = by_name(tree), family.tensors(config)
    assert {name for name, tensor in table.items() if not tensor.copy} <= arrays.keys() <= table.keys()
    for name, x in arrays.items():
        assert x.shape == table[name].shape, name
        for part, piece in zip(table[name].parts, table[name].taken_apart(x), strict=True):
            flat[part.parameter][part.index] = piece
    return jax.tree.map(jnp.asarray, tree)


# Programs this small run once: what their compilation takes is all that counts.
QUICK = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def logits_of(config, params, tokens, positions, segments):
    """Logits (B, T, V)."""
    return forward(config, params, tokens, positions_BT=positions, segment_ids_BT=segments).logits_BTV


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def gradient_of(config, params, tokens, positions, segments):
    """The gradient of the mean cross-entropy of every next token."""

    def loss(params):
        logits = forward(config, params, tokens, positions_BT=positions, segment_ids_BT=segments).logits_BTV
        target = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(target, tokens[:, 1:, None], axis=-1))

    return jax.grad(loss)(params)


def whole(tokens):
    """Tokens, positions and segments of rows that are one document each."""
    tokens = jnp.asarray(tokens, jnp.int32)
    return tokens, jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape), jnp.ones_like(tokens)


def packed(tokens):
    """The same of the first halves of two rows as two documents that are packed into one row, either way round."""
    half = tokens.shape[1] // 2
    tokens = jnp.concatenate([tokens[:, :half], tokens[::-1, :half]], axis=1).astype(jnp.int32)
    places = jnp.tile(jnp.arange(half, dtype=jnp.int32), 2)
    segments = jnp.repeat(jnp.arange(1, 3, dtype=jnp.int32), half)
    return tokens, *(jnp.broadcast_to(x, tokens.shape) for x in (places, segments))


def greedy(config, params, prompts, new_tokens):
    """The likeliest continuations of prompts of different lengths, in one batch, through the cache."""
    return generate(config, params, prompts, Sampling(max_tokens=new_tokens, temperature=0.0), chunk=16)
