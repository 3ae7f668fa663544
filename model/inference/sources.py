"""Sources in generation with an encoder: prompts are sources, read once; texts begin with the encoder's start token."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.errors import UserError
from model.inference.prompts import check_ids, check_length
from model.layout import Layout
from model.transformer import Params, stream

MIN_SLOTS = 16  # tokens of a source; longer ones are padded to the next power of two, for a few compiled programs


def texts_and_sources(
    config: ModelConfig, prompts: Sequence[Sequence[int]]
) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]] | None]:
    """Returns the tokens that texts begin with, and their sources; without an encoder the prompts, and None.

    Raises UserError for a source that is empty, too long, or has an id outside the vocabulary.
    """
    encoder = config.encoder
    if encoder is None:
        return prompts, None
    refuse_lengths(config)
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) == 0:
            raise UserError(f"prompt {number} has no tokens; expected a source of at least one")
        check_length(f"prompt {number}", prompt, encoder.context_length)
        check_ids(f"prompt {number}", prompt, config.vocab_size)
    return [[encoder.start_token]] * len(prompts), prompts


def prompt_and_source(encoder: Encoder | None, ids: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Returns the prompt and the source of a request of the engine with the ids of a text, which an encoder reads."""
    return (tuple(ids), None) if encoder is None else ((encoder.start_token,), tuple(ids))


def slots_of(length: int, most: int) -> int:
    """Returns the slots of a program that reads a source: the next power of two, at most `most`."""
    return min(most, max(MIN_SLOTS, 1 << (length - 1).bit_length()))


def refuse_lengths(config: ModelConfig) -> None:
    """Raises UserError for a model with an encoder whose positions depend on the length of a text."""
    if config.encoder is not None and config.reads_lengths:
        raise UserError("a model with an encoder generates no text with positions that depend on its length")


def read_sources(
    config: ModelConfig, layout: Layout, params: Params, state: Any, sources: Sequence[Sequence[int]]
) -> Any:
    """Returns a `DecodeState` whose cache has the keys and values of these sources, one for each of its first rows."""
    assert config.encoder is not None
    rows, slots = len(state.token_B), slots_of(max(map(len, sources)), config.encoder.context_length)
    tokens_BS, lengths_B = np.zeros((rows, slots), np.int32), np.ones(rows, np.int32)
    for row, source in enumerate(sources):
        tokens_BS[row, : len(source)], lengths_B[row] = source, len(source)
    return _read(config, layout, params, state, tokens_BS, lengths_B)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _read(
    config: ModelConfig, layout: Layout, params: Params, state: Any, tokens_BS: jax.Array, lengths_B: jax.Array
) -> Any:
    """Runs the encoder and a pass over one token of padding, which leaves the caches of mixers as they are."""
    assert config.encoder is not None
    rows, slots = tokens_BS.shape
    empty = config.encoder.cross.empty_cache(config.width, rows, slots, config.precision.compute)
    output = stream(
        config,
        params,
        state.token_B[:, None],
        positions_BT=jnp.zeros((rows, 1), jnp.int32),
        lengths_B=jnp.zeros(rows, jnp.int32),
        cache={layer: dataclasses.replace(cache, source=empty) for layer, cache in state.cache.items()},
        source=Source.of_lengths(tokens_BS, lengths_B),
        layout=layout,
    )
    assert output.cache is not None
    caches = {layer: cache.sharded(layout) for layer, cache in output.cache.items()}
    return dataclasses.replace(state, cache=caches)
