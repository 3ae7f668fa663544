"""Logits of directions: the unembedding of a direction through the linear last norm."""

import jax
import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.layout import ONE_DEVICE
from model.norms import LayerNorm
from model.transformer import init
from train.inspection.features.pages.effects import effects, extremes

CONFIG = ModelConfig(
    vocab_size=11,
    context_length=8,
    num_layers=1,
    width=8,
    mixer=GroupedQuery(num_heads=2),
    ffn=MLP(width=16),
    norm=LayerNorm(),
)


def test_logits_are_those_of_the_linear_map_and_no_bias_counts():
    params = jax.jit(init, static_argnums=0)(CONFIG, jax.random.key(0))
    draw = np.random.default_rng(0)
    params["final_norm"] = {name: draw.normal(size=8).astype(np.float32) for name in params["final_norm"]}
    directions = draw.normal(size=(3, 8)).astype(np.float32)
    found = jax.jit(lambda p, x: effects(CONFIG, p, x, ONE_DEVICE))(params, directions)
    from model.transformer import unembedding

    centred = directions - directions.mean(1, keepdims=True)
    unit = centred / np.sqrt(np.square(centred).mean(1, keepdims=True))
    logits = unit * params["final_norm"]["scale"] @ np.asarray(unembedding(CONFIG, params).w_DV)
    expected = logits - logits.mean(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    top, bottom = extremes(np.asarray(found), 2)
    for row in range(3):
        assert list(top[row]) == list(np.argsort(-expected[row])[:2])
        assert list(bottom[row]) == list(np.argsort(expected[row])[:2])
