"""Shares of a logit sum to it, on several families; models whose stream is no sum are refused by name."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.source import Source
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.norms import LayerNorm
from model.residual import HyperConnections, PostNorm, Reordered
from model.transformer import forward
from model.vocabulary.prediction_head import PredictionHead
from tests.tiers import representatives
from tests.train.inspection.models import FAMILIES, subject, tokens
from tests.train.inspection.sources import BOTH, RECURRENT, reads_source
from train.inspection.stream.parts import attribute

MODELS = FAMILIES | {
    "reordered": dataclasses.replace(
        FAMILIES["llama"], residual=Reordered(), layer_scale=0.5, mixer=GroupedQuery(num_heads=2), ffn=Gated(width=8)
    )
}
CROSS = CrossAttention(num_heads=4, num_kv_heads=2, qkv_bias=True, output_bias=True)
SOURCES = {
    "plain": BOTH,
    "recurrent": RECURRENT,
    "biased": dataclasses.replace(
        BOTH,
        norm=LayerNorm(),
        residual=Reordered(),
        layer_scale=0.5,
        encoder=dataclasses.replace(BOTH.encoder, cross=CROSS),
    ),
}
POSITION, TARGET, AGAINST = 7, 3, 11


@pytest.mark.parametrize("name", representatives(MODELS, "gpt"))
def test_shares_sum_to_the_logit(name):
    config, ids = MODELS[name], tokens(1)[0]
    model = subject(config)
    own = np.asarray(forward(config, model.params, ids[None]).logits_BTV, np.float64)[0, POSITION]
    found = attribute(model, ids, POSITION, TARGET)
    cap = config.final_logit_softcap
    capped = found.total if cap is None else cap * np.tanh(found.total / cap)
    assert capped == pytest.approx(own[TARGET], abs=2e-5)
    assert found.logits == pytest.approx((own[TARGET],), abs=2e-5)
    assert list(found.parts) == ["embedding", "mixer 0", "ffn 0", "mixer 1", "ffn 1"]
    assert min(abs(share) for share in found.parts.values()) > 1e-4
    assert (abs(found.bias) > 1e-4) == (name in ("gpt", "llama", "parallel", "reordered"))
    for number in (0, 1):
        heads, rest = found.heads[number]
        assert len(heads) == config.mixer.num_heads
        assert heads.sum() + rest == pytest.approx(found.parts[f"mixer {number}"], abs=2e-5)
        neurons, rest = found.neurons[number]
        assert len(neurons) == config.ffn.width
        assert neurons.sum() + rest == pytest.approx(found.parts[f"ffn {number}"], abs=2e-5)


@pytest.mark.sweep
def test_shares_of_a_difference_are_differences_of_shares():
    model, ids = subject(FAMILIES["llama"]), tokens(1)[0]
    one, other = (attribute(model, ids, POSITION, token) for token in (TARGET, AGAINST))
    both = attribute(model, ids, POSITION, TARGET, AGAINST)
    assert both.total == pytest.approx(one.total - other.total, abs=2e-5)
    assert both.logits == pytest.approx((one.logits[0], other.logits[0]), abs=1e-6)
    np.testing.assert_allclose(both.heads[1][0], one.heads[1][0] - other.heads[1][0], atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"residual": PostNorm()}, "residual=PostNorm: the stream is no sum"),
        ({"residual": HyperConnections(streams=2)}, "residual=HyperConnections"),
        ({"stream_scale": 0.5}, "stream_scale multiplies the stream"),
        ({"prediction_head": PredictionHead()}, "prediction_head is no linear map of the stream"),
    ],
)
def test_a_stream_that_is_no_sum_is_refused(changes, words):
    config = dataclasses.replace(FAMILIES["llama"], **changes)
    with pytest.raises(UserError, match=words):
        attribute(subject(config), tokens(1)[0], POSITION, TARGET)


@pytest.mark.parametrize("name", representatives(SOURCES, "biased"))
def test_shares_of_a_model_that_reads_a_source_sum_to_the_logit(name):
    model, ids = reads_source(SOURCES[name]), tokens(1, vocab=257)[0]
    own = np.asarray(model_logits(model, ids), np.float64)[0, POSITION]
    found = attribute(model, ids, POSITION, TARGET)
    assert found.total == pytest.approx(own[TARGET], abs=3e-5)
    assert list(found.parts) == ["embedding", *(f"{part} {n}" for n in (0, 1) for part in ("mixer", "cross", "ffn"))]
    assert min(abs(share) for share in found.parts.values()) > 1e-4
    assert list(found.cross_heads) == list(found.neurons) == [0, 1]
    for number in (0, 1):
        heads, rest = found.cross_heads[number]
        assert len(heads) == (1 if name == "recurrent" else 4)
        assert (abs(rest) > 1e-4) == (name == "biased")
        assert heads.sum() + rest == pytest.approx(found.parts[f"cross {number}"], abs=3e-5)
        for part, kind in (("mixer", found.heads), ("ffn", found.neurons)):
            if number in kind:
                values, rest = kind[number]
                assert values.sum() + rest == pytest.approx(found.parts[f"{part} {number}"], abs=3e-5)
    another = dataclasses.replace(model, source_S=np.array([9, 8, 7], np.int32))
    assert attribute(another, ids, POSITION, TARGET).parts["cross 0"] != pytest.approx(found.parts["cross 0"], abs=1e-4)


def model_logits(model, ids):
    source = Source(tokens_BS=jnp.asarray(model.source_S)[None])
    return forward(model.config, model.params, ids[None], source=source).logits_BTV
