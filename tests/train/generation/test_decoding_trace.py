"""Traces of mixed lengths: their lengths and arrivals, and that the engine and static batches serve all of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.inference.generate import prepare_params
from model.layout import ONE_DEVICE
from model.transformer import init
from tests.model.inference.engine.serving import MODELS
from train.generation import decoding_trace
from train.generation.decoding_trace import TraceSpeed, draw_trace, measure_trace

CONFIG = ModelConfig(
    vocab_size=64,
    context_length=16,
    num_layers=1,
    width=16,
    mixer=GroupedQuery(num_heads=2),
    ffn=Gated(width=16),
)


def test_lengths_are_log_uniform_and_arrivals_a_poisson_process():
    config = dataclasses.replace(CONFIG, context_length=2048)
    trace = draw_trace(config, 2000, per_second=10.0)
    new = np.array([request.sampling.max_tokens for request in trace.requests])
    assert (new.min(), new.max()) == (4, 256)
    assert np.median(new) == pytest.approx((4 * 257) ** 0.5, rel=0.1)
    gaps = np.diff(trace.arrivals)
    assert gaps.mean() == pytest.approx(0.1, rel=0.1)
    assert gaps.std() == pytest.approx(0.1, rel=0.1)
    assert set(draw_trace(config, 5).arrivals) == {0.0}


def test_a_context_that_is_too_short_is_refused():
    with pytest.raises(UserError, match="a trace needs a context of 8 tokens; the model has 6"):
        draw_trace(dataclasses.replace(CONFIG, context_length=6), 3)


def test_a_model_with_an_encoder_is_refused():
    with pytest.raises(UserError, match="a trace has prompts and no sources"):
        draw_trace(MODELS["encoder"], 3)


def test_both_serve_all_requests(monkeypatch):
    written = []
    generate = decoding_trace.generate

    def noted(*arguments, **options):
        written.append(generate(*arguments, **options))
        return written[-1]

    monkeypatch.setattr(decoding_trace, "generate", noted)
    params = prepare_params(CONFIG, jax.jit(init, static_argnums=0)(CONFIG, jax.random.key(0)), ONE_DEVICE)
    speed = measure_trace(CONFIG, params, ONE_DEVICE, rows=2, count=3, per_second=1000.0)
    trace = draw_trace(CONFIG, 3, per_second=1000.0)
    assert speed.new_tokens == trace.new_tokens
    assert len(speed.first_token_seconds) == 3
    assert len(speed.token_seconds) == trace.new_tokens - 3
    assert sum(len(text) for batch in written for text in batch) == trace.new_tokens + 3  # 3 to compile


def test_the_numbers():
    speed = TraceSpeed(2, 30, 100, 16, None, 2.0, 6.0, (0.1, 0.3), (0.01,) * 98)
    assert speed.speedup == 3
    assert speed.lines()[1] == "  engine 50 tokens/s, static batches 16.7: 3.00 times"
    assert speed.lines()[2] == (
        "  engine: first token 200.0 ms in the middle, 298.0 at p99; between tokens 10.0 ms in the mean, 10.0 at p99"
    )
    found = json.loads(json.dumps(speed.as_json()))
    assert found["first_token_seconds_p50"] == pytest.approx(0.2)
    assert "token_seconds" not in found
