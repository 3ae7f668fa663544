"""A pass in the stages of a pipeline computes what one device computes, or is refused by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.stack import empty_caches
from model.taps.request import Tap, Taps
from model.transformer import abstract_params, init, stream
from tests.train.parallel.test_sharded_steps import numbered_batch
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(model__vocab_size=64, model__num_layers=4)


@pytest.mark.parametrize(("stages", "chunks"), [(4, 1), pytest.param(2, 2, marks=pytest.mark.sweep)])
def test_evaluation_in_stages_equals_one_device(stages, chunks, experiment):
    """Losses of every token, and statistics of every layer; without micro-batches of training a stage has one."""
    tokens = numbered_batch(experiment, 0)
    params = init(experiment.model, jax.random.key(0))
    taps = ("stream_squares", "query")

    def run(layout):
        rows = {"positions_BT": tokens["positions"], "segment_ids_BT": tokens["segment_ids"]}
        output = stream(experiment.model, params, tokens["tokens"], layout=layout, taps=taps, **rows)
        return output.stream_BTD, output.taps

    mesh = make_mesh(Mesh(data=1, stage=stages), jax.devices()[:stages])
    got, expected = (
        jax.jit(functools.partial(run, x))() for x in (layout_of(mesh, Sharding(chunks=chunks)), ONE_DEVICE)
    )
    assert got[1]["query"].shape[:2] == (4, experiment.data.batch_size)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"taps": Taps(edit={"query": lambda x, site: x})}, "taps are not edited in stages"),
        ({"taps": (Tap("query", (1,)),)}, "tap 'query': with mesh.stage=2 it is kept of all layers or of none"),
        ({"cache": True}, "decoding does not run in stages; give a --mesh without stage"),
    ],
)
def test_what_a_pass_cannot_do_in_stages_is_refused_by_name(options, words, experiment):
    model = experiment.model
    layout = layout_of(make_mesh(Mesh(data=1, stage=2), jax.devices()[:2]), Sharding())
    options = options | ({"cache": empty_caches(model, 4, 8)} if "cache" in options else {})
    with pytest.raises(UserError, match=words):
        jax.eval_shape(
            lambda params: stream(model, params, jnp.zeros((4, 8), jnp.int32), layout=layout, **options),
            abstract_params(model),
        )
