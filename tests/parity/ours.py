"""Cairn's side of the comparison: reads a Hugging Face folder; computes logits, gradients and greedily generated tokens."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from model.encoder.source import Source
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.parameters.names import flatten
from model.transformer import abstract_params, forward
from train.conversion.language_model import LanguageModelFolder

GRADIENT_OF = "gradient of "  # a prefix of the names of recorded numbers


def fingerprint(x):
    """Returns the norm of an array, and its product with a fixed vector."""
    flat = np.asarray(x, np.float64).reshape(-1)
    return np.array([np.linalg.norm(flat), flat @ np.cos(np.arange(flat.size))])


def load(folder):
    """Returns family, config and float32 parameters of a folder."""
    opened = LanguageModelFolder(pathlib.Path(folder))
    family, config = opened.model.family, opened.model.read().config
    return family, config, params_of(family, config, arrays_of(opened))


def arrays_of(opened):
    """Returns the tensors of the language model in a folder, by name."""
    return {name: opened.whole(name) for name in opened.tensors}


def tensors_of(family, config, params):
    """The inverse of `params_of`."""
    flat, table = flatten(jax.device_get(params)), family.tensors(config)
    return {
        name: tensor.join([np.asarray(flat[part.parameter][part.index]) for part in tensor.parts])
        for name, tensor in table.items()
        if not tensor.copy
    }


def params_of(family, config, arrays):
    """Returns parameters from tensors; the table must know every tensor and its shape."""
    tree = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), abstract_params(config))
    flat, table = flatten(tree), family.tensors(config)
    assert {name for name, tensor in table.items() if not tensor.copy} <= arrays.keys() <= table.keys()
    for name, x in arrays.items():
        assert x.shape == table[name].shape, name
        for part, piece in zip(table[name].parts, table[name].split(x), strict=True):
            flat[part.parameter][part.index] = piece
    return jax.tree.map(jnp.asarray, tree)


# Each of these small programs runs once, so only its compile time matters.
FAST_COMPILE_OPTIONS = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILE_OPTIONS)
def logits_of(config, params, tokens, positions, segment_ids):
    """Returns logits (B, T, V); the source of a text is the text backwards."""
    rows = {"positions_BT": positions, "segment_ids_BT": segment_ids}
    if config.encoder is not None:
        rows["source"] = Source(tokens[:, ::-1], positions, segment_ids[:, ::-1])
    return forward(config, params, tokens, **rows).logits_BTV


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILE_OPTIONS)
def gradient_of(config, params, tokens, positions, segment_ids):
    """Returns the gradient of the mean next-token cross-entropy."""

    def loss(params):
        logits = logits_of.__wrapped__(config, params, tokens, positions, segment_ids)
        target = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(target, tokens[:, 1:, None], axis=-1))

    return jax.grad(loss)(params)


def one_document_rows(tokens):
    """Returns tokens, positions and segment ids of rows that are one document each."""
    tokens = jnp.asarray(tokens, jnp.int32)
    return tokens, jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape), jnp.ones_like(tokens)


def packed_rows(tokens):
    """Returns the same for the first halves of two rows, packed into one row as two documents, in both orders."""
    half = tokens.shape[1] // 2
    tokens = jnp.concatenate([tokens[:, :half], tokens[::-1, :half]], axis=1).astype(jnp.int32)
    positions = jnp.tile(jnp.arange(half, dtype=jnp.int32), 2)
    segment_ids = jnp.repeat(jnp.arange(1, 3, dtype=jnp.int32), half)
    return tokens, *(jnp.broadcast_to(x, tokens.shape) for x in (positions, segment_ids))


def greedy(config, params, prompts, new_tokens):
    """Returns the greedily generated tokens of prompts of different lengths, in one batch, through the cache."""
    return generate(config, params, prompts, Sampling(max_tokens=new_tokens, temperature=0.0), chunk=16)
