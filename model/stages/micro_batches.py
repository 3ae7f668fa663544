"""The micro-batches of a pipeline: splits the rows of a batch into them, and puts the rows together again."""

from collections.abc import Callable

import jax

from model.layout import Layout, Pipeline


def order_rows(x: jax.Array, pipeline: Pipeline) -> jax.Array:
    """Returns the rows of an array (B, ...) in the order of `Pipeline`; row r is in micro-batch r % M, as given."""
    micro, stages, shards = pipeline.micro_batches, pipeline.stages, pipeline.row_shards
    parts = x.reshape(shards, -1, stages, micro // stages, *x.shape[1:])
    return parts.transpose(2, 0, 3, 1, *range(4, parts.ndim)).reshape(x.shape)


def split_rows(x: jax.Array, pipeline: Pipeline) -> jax.Array:
    """Returns an array (B, ...) by stage and micro-batch (S, M / S, B / M, ...)."""
    micro, stages, shards = pipeline.micro_batches, pipeline.stages, pipeline.row_shards
    parts = x.reshape(stages, shards, micro // stages, -1, *x.shape[1:])
    return parts.swapaxes(1, 2).reshape(stages, micro // stages, -1, *x.shape[1:])


def join_rows(x: jax.Array, pipeline: Pipeline) -> jax.Array:
    """Returns an array (S, M / S, B / M, ...) by row (B, ...): the inverse of `split_rows`."""
    stages, each, rows, *rest = x.shape
    parts = x.reshape(stages, each, pipeline.row_shards, -1, *rest).swapaxes(1, 2)
    return parts.reshape(stages * each * rows, *rest)


def in_micro_batches(
    function: Callable[[jax.Array, jax.Array], jax.Array], layout: Layout, keys_M: jax.Array, x: jax.Array
) -> jax.Array:
    """Returns `function(key, rows)` of every micro-batch's key and rows; all have the shape of their rows."""
    pipeline = layout.pipeline
    assert pipeline is not None, "a key for each micro-batch, in a pass without micro-batches"
    split = split_rows(x, pipeline)
    flat = split.reshape(-1, *split.shape[2:])
    return join_rows(jax.vmap(function)(keys_M, flat).reshape(split.shape), pipeline)


def by_micro_batch(x: jax.Array, layout: Layout) -> jax.Array:
    """Returns an array (B, ...) by micro-batch (M, B / M, ...), which every stage holds whole: for rows of numbers."""
    pipeline = layout.pipeline
    assert pipeline is not None
    split = split_rows(x, pipeline)
    flat = split.reshape(pipeline.micro_batches, *split.shape[2:])
    return layout.within_stage().constrain(flat, (None, "batch", *(None,) * (x.ndim - 1)))
