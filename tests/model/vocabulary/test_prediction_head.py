import math

import jax
import numpy as np

from model.cost import count_parameters
from model.norms import LayerNorm
from model.transformer import forward, unembedding
from model.vocabulary import cross_entropy
from model.vocabulary.embedding import Tied
from model.vocabulary.prediction_head import PredictionHead


def test_logits_of_the_equation(small, drawn, tokens):
    config = small(prediction_head=PredictionHead(), unembedding=Tied(bias=True), norm=LayerNorm())
    params = drawn(config)
    output = forward(config, params, tokens)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    hidden = np.asarray(output.stream_BTD, np.float64) @ head["dense"] + head["dense_bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    hidden -= hidden.mean(axis=-1, keepdims=True)
    hidden /= np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-5)
    hidden = hidden * head["norm"]["scale"] + head["norm"]["bias"]
    table = np.asarray(params["embedding"]["table"], np.float64)
    expected = hidden @ table.T + np.asarray(params["embedding"]["output_bias"], np.float64)
    np.testing.assert_allclose(output.logits_BTV, expected, rtol=1e-4, atol=1e-4)
    assert count_parameters(config).unembedding == 16 * 16 + 16 + 2 * 16 + 17


def test_a_loss_in_chunks_is_that_of_whole_logits_with_its_gradient(small, drawn, tokens, monkeypatch):
    config = small(prediction_head=PredictionHead(activation="relu", bias=False))
    params, weights = drawn(config), np.ones(tokens.shape, np.float32)
    stream = jax.jit(lambda p: forward(config, p, tokens).stream_BTD)(params)

    def loss(params):
        from model.layout import ONE_DEVICE

        head = unembedding(config, params)
        return cross_entropy.total_nll(stream, head, tokens, weights, ONE_DEVICE)[1]

    whole = jax.jit(jax.value_and_grad(lambda p: loss(p)))(params)
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 5 * 17)
    chunked = jax.jit(jax.value_and_grad(lambda p: loss(p)))(params)
    assert np.abs(whole[1]["head"]["dense"]).max() > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), whole, chunked)
