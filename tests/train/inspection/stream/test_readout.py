"""The lens at the last layer is the model's own prediction, whatever the residual scheme."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.encoder.source import Source
from model.residual import HyperConnections, PostNorm
from model.transformer import forward
from tests.tiers import representatives
from tests.train.inspection.models import FAMILIES, subject, tokens
from tests.train.inspection.sources import BOTH, reads_source
from train.inspection.stream.lens import streams_of
from train.inspection.stream.readout import lens, readout, shares

MODELS = FAMILIES | {
    "post_norm": dataclasses.replace(FAMILIES["llama"], residual=PostNorm()),
    "hyper": dataclasses.replace(FAMILIES["llama"], residual=HyperConnections(streams=2)),
}


@pytest.mark.parametrize("name", representatives(MODELS, "gemma", "hyper"))
def test_the_lens_at_the_last_layer_is_the_logits(name):
    config = MODELS[name]
    model = subject(config)
    streams, logits = streams_of(model, model.params, tokens())
    assert len(streams) == config.num_layers + 1
    np.testing.assert_array_equal(lens(config, model.params, streams[-1]), logits)
    assert not np.allclose(lens(config, model.params, streams[0]), logits)


def test_the_lens_at_the_last_layer_is_the_logits_of_a_model_that_reads_a_source():
    model = reads_source(BOTH)
    streams, logits = streams_of(model, model.params, tokens(vocab=257))
    np.testing.assert_array_equal(lens(BOTH, model.params, streams[-1]), logits)
    source = Source(tokens_BS=jnp.broadcast_to(jnp.asarray(model.source_S), (2, 5)))
    np.testing.assert_allclose(
        logits, forward(BOTH, model.params, tokens(vocab=257), source=source).logits_BTV, atol=1e-5
    )


def test_shares_are_linear_in_the_parts():
    config = FAMILIES["gpt"]
    params, draw = subject(config).params, np.random.default_rng(0)
    parts = jnp.asarray(draw.normal(size=(3, config.width)), jnp.float32)
    found = shares(config, params, readout(config, params, 5), parts, parts.sum(0))
    whole = lens(config, params, parts.sum(0)[None, None])[0, 0, 5]
    assert float(found.sum() + readout(config, params, 5).bias) == pytest.approx(float(whole), abs=1e-5)
