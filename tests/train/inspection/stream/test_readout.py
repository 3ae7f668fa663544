"""The lens at the last layer is the model's own prediction, whatever the residual scheme."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.residual import HyperConnections, PostNorm
from tests.tiers import representatives
from tests.train.inspection.models import FAMILIES, subject, tokens
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
    streams, logits = streams_of(config, model.params, tokens())
    assert len(streams) == config.num_layers + 1
    np.testing.assert_array_equal(lens(config, model.params, streams[-1]), logits)
    assert not np.allclose(lens(config, model.params, streams[0]), logits)


def test_shares_are_linear_in_the_parts():
    config = FAMILIES["gpt"]
    params, draw = subject(config).params, np.random.default_rng(0)
    parts = jnp.asarray(draw.normal(size=(3, config.width)), jnp.float32)
    found = shares(config, params, readout(config, params, 5), parts, parts.sum(0))
    whole = lens(config, params, parts.sum(0)[None, None])[0, 0, 5]
    assert float(found.sum() + readout(config, params, 5).bias) == pytest.approx(float(whole), abs=1e-5)
