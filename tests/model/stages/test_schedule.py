"""The schedule of a pipeline, against a simulation that moves micro-batches by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import AxisSharding, Pipeline
from model.stages.schedule import send_back, send_on, ticks_of_micro_batches, work_of


def pipeline(stages, chunks, micro_batches, row_shards=1):
    return Pipeline(AxisSharding(("stage",), stages), chunks, micro_batches, row_shards)


@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), [(2, 1, 4), (4, 1, 4), (2, 3, 6), (4, 2, 8)])
def test_every_micro_batch_passes_every_chunk_in_order(stages, chunks, micro_batches):
    """Each chunk of a micro-batch runs one tick after the chunk before it, one stage on."""
    option = pipeline(stages, chunks, micro_batches)
    ran = {}
    for tick in range(option.ticks):
        for stage in range(stages):
            if 0 <= tick - stage < micro_batches * chunks:
                micro_batch, chunk = work_of(tick - stage, option)
                ran[micro_batch, chunk * stages + stage] = tick
    assert set(ran) == {(m, c) for m in range(micro_batches) for c in range(stages * chunks)}
    for micro_batch, chunk in ran:
        if chunk:
            assert ran[micro_batch, chunk] == ran[micro_batch, chunk - 1] + 1
    ticks_SVM = ticks_of_micro_batches(option)
    for (micro_batch, chunk), tick in ran.items():
        assert ticks_SVM[chunk % stages, chunk // stages, micro_batch] == tick
    bubble = 1 - micro_batches * chunks / option.ticks
    assert bubble == pytest.approx((stages - 1) / (chunks * micro_batches + stages - 1))


def test_stages_send_to_their_neighbours_and_gradients_the_other_way():
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(send_on(x), [3, 0, 1, 2])
    np.testing.assert_array_equal(send_back(x), [1, 2, 3, 0])
    weights = jnp.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(weights * send_on(x)))(x), [2, 3, 4, 1])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(weights * send_back(x)))(x), [4, 1, 2, 3])
