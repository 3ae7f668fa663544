"""The schedule of a pipeline: which chunk and micro-batch a stage works on, and how stages send to each other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.layout import Pipeline


def work_of(number: Any, pipeline: Pipeline) -> tuple[Any, Any]:
    """Returns the micro-batch and the chunk of a stage's n-th run: S micro-batches pass all chunks before the next."""
    stages, period = pipeline.stages, pipeline.stages * pipeline.chunks
    within = number % period
    return number // period * stages + within % stages, within // stages


def ticks_of_micro_batches(pipeline: Pipeline) -> np.ndarray:
    """Returns the tick in which a stage runs a chunk on a micro-batch (S, V, M)."""
    stages, chunks = pipeline.stages, pipeline.chunks
    stage, chunk, micro = np.ogrid[:stages, :chunks, : pipeline.micro_batches]
    return np.asarray(micro // stages * stages * chunks + chunk * stages + micro % stages + stage)


def _rotation(shift: int) -> Any:
    """Returns a rotation of the axis of stages, whose derivative is the opposite one.

    Forward and backward the compiler has to see a rotation of a split axis, of which it makes a collective-permute.
    """

    @jax.custom_vjp
    def rotate(x: jax.Array) -> jax.Array:
        return jnp.roll(x, shift, axis=0)

    def backward(_: None, cotangent: Any) -> tuple[Any]:
        is_number = cotangent.dtype != jax.dtypes.float0
        return (jnp.roll(cotangent, -shift, axis=0) if is_number else cotangent,)

    rotate.defvjp(lambda x: (rotate(x), None), backward)
    return rotate


send_on, send_back = _rotation(1), _rotation(-1)  # to the next stage, and to the one before
