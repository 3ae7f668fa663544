"""Shares of a logit sum to it, on several families; models whose stream is no sum are refused by name."""

import dataclasses

import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.residual import HyperConnections, PostNorm, Reordered
from model.transformer import forward
from model.vocabulary.prediction_head import PredictionHead
from tests.tiers import representatives
from tests.train.inspection.models import FAMILIES, subject, tokens
from train.inspection.stream.parts import attribute

MODELS = FAMILIES | {
    "reordered": dataclasses.replace(
        FAMILIES["llama"], residual=Reordered(), layer_scale=0.5, mixer=GroupedQuery(num_heads=2), ffn=Gated(width=8)
    )
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
