"""The parameters of the stages; their gradients are those of a reordering, on every number of stages and chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.stages.parameters import _rounds, chunks_of_stages
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of


@pytest.mark.parametrize("stages", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("chunks", [2, 3, 4, 6])
def test_rounds_move_every_chunk_once(stages, chunks):
    place = {}
    for sent, to, received in _rounds(stages, chunks):
        assert sorted(to) == list(range(stages))
        for stage in range(stages):
            place[stage * chunks + sent[stage]] = to[stage], received[to[stage]]
    assert place == {chunk: (chunk % stages, chunk // stages) for chunk in range(stages * chunks)}


@pytest.mark.parametrize(("stages", "chunks"), [(2, 1), (2, 2), (4, 2)])
def test_stages_get_their_chunks_and_send_the_gradients_back(stages, chunks):
    table = Sharding(chunks=chunks)
    layout = layout_of(make_mesh(Mesh(data=1, stage=stages, fsdp=8 // stages)), table)
    axes, shape = ("layer", "embed", "ffn"), (8, 8, 3)
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    move = functools.partial(chunks_of_stages, axes=axes, layout=layout)
    got, back = jax.vjp(jax.jit(move), jnp.asarray(w))
    expected = w.reshape(chunks, stages, -1, 8, 3).swapaxes(0, 1)  # chunk c is in stage c % S
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(back(got)[0], w)
