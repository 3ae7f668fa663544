"""The parameters of the stages of a pipeline: from one leading axis of layers to chunks of layers in their stages."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from model.layout import Axes, Layout


def chunks_of_stages(x: jax.Array, axes: Axes, *, layout: Layout) -> jax.Array:
    """Returns a stack of parameters (L, ...) by stage and chunk (S, V, K, ...); chunk c is in stage c % S.

    Parameters and their moments are split over the stages in the order of the layers, so that they are the same arrays
    on every mesh. With one chunk a stage has its own layers; with V chunks each moves to its stage once a step, and its
    gradient back: V collective-permutes of 1 / V of the parameters of a stage.
    """
    pipeline = layout.pipeline
    assert pipeline is not None
    stages, chunks, own = pipeline.stages, pipeline.chunks, layout.parameter_axis_shardings(x.shape, axes)
    shape = (chunks, len(x) // (stages * chunks), *x.shape[1:])
    if chunks == 1:
        return layout.constrain(x.reshape(stages, *shape), (pipeline.stage, None, None, *own[1:]))
    names = pipeline.stage.mesh_axes
    rounds = _rounds(stages, chunks)

    def exchange(local: jax.Array) -> jax.Array:
        held, stage = local.reshape(*shape[:2], *local.shape[1:]), jax.lax.axis_index(names)
        result = held
        for sent_S, to_S, received_S in rounds:
            chunk = jax.lax.dynamic_index_in_dim(held, jnp.asarray(sent_S)[stage], keepdims=False)
            chunk = jax.lax.ppermute(chunk, names, list(enumerate(to_S.tolist())))
            result = jax.lax.dynamic_update_index_in_dim(result, chunk, jnp.asarray(received_S)[stage], axis=0)
        return result[None]

    moved: jax.Array = layout.shard_map(exchange, (own,), (pipeline.stage, None, None, *own[1:]))(x)
    return moved


def _rounds(stages: int, chunks: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns rounds in which every stage sends one chunk and receives one; together they move all chunks.

    Stage s holds the chunks s V to s V + V - 1 and needs those whose number is s modulo S. In a round, the stages send
    chunks to different stages: with g = gcd(S, V), s V takes each multiple of g modulo S for g values of s, and these
    send chunks that differ modulo g.

    A round is, for each stage: which of its chunks it sends, to which stage, and where that which it receives belongs.
    """
    common, stage = math.gcd(stages, chunks), np.arange(stages)
    turn = stage // (stages // common)
    rounds = []
    for number in range(chunks):
        sent = number // common * common + (number % common + turn) % common
        chunk = stage * chunks + sent
        received = np.zeros(stages, int)
        received[chunk % stages] = chunk // stages
        rounds.append((sent, chunk % stages, received))
    return rounds
