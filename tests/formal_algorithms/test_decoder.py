"""Algorithms 1 to 7, 10, 13 and 14, beside Cairn's modules with the same parameters."""

import functools

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.inference.generate import generate
from model.inference.sampling import Sampling, filter_logits
from model.layout import Layout
from model.norms import LayerNorm
from model.positions.absolute import Learned
from model.transformer import abstract_params, forward
from model.vocabulary.embedding import Untied
from tests.formal_algorithms.parameters import decoder_of, heads_of
from tests.formal_algorithms.training import d_inference, d_training, tempered
from tests.formal_algorithms.transformers import (
    attention,
    causal,
    d_transformer,
    layer_norm,
    multi_head_attention,
    positional_embedding,
    single_query_attention,
    token_embedding,
    unembedding,
)
from train.optimizers.options import SGD
from train.schedules import Constant
from train.state import StateConfig, init_state
from train.step import train_step

CONFIG = ModelConfig(
    vocab_size=7,
    context_length=16,
    num_layers=2,
    width=6,
    position=Learned(),
    mixer=GroupedQuery(num_heads=2, qkv_bias=True, output_bias=True),
    ffn=MLP(width=10, activation="gelu", bias=True),
    norm=LayerNorm(epsilon=1e-12),  # the paper has none
    unembedding=Untied(),
)
TEXT = [3, 1, 6, 0, 0, 5]
TAPS = ("embedding", "mixer_heads", "mixer_output", "block_output", "final_norm")
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)  # float32 against float64


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        return (float(path[-1].key == "scale") + 0.5 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(CONFIG))


@pytest.fixture(scope="module")
def theta(params):
    return decoder_of(params)


@pytest.fixture(scope="module")
def cairn(params):
    """Cairn's logits and taps of the text; columns are tokens, as in the paper."""

    @jax.jit
    def run(params, tokens_BT):
        output = forward(CONFIG, params, tokens_BT, taps=TAPS)
        return output.logits_BTV, output.taps

    logits_BTV, taps = run(params, np.array([TEXT]))
    taps = {name: np.asarray(x, np.float64) for name, x in taps.items()}
    per_layer = {name: taps[name][:, 0] for name in ("mixer_heads", "mixer_output", "block_output")}
    whole = {name: taps[name].reshape(len(TEXT), CONFIG.width).T for name in ("embedding", "final_norm")}
    return per_layer | whole | {"logits": np.asarray(logits_BTV[0], np.float64)}


def test_token_and_positional_embedding(theta, cairn):
    for t, v in enumerate(TEXT):
        close(token_embedding(v, theta["W_e"]) + positional_embedding(t, theta["W_p"]), cairn["embedding"][:, t])


def read_by_attention(theta, cairn, layer):
    """The normalised tokens that the attention of a layer reads, from Cairn's stream before it."""
    X = cairn["embedding"] if layer == 0 else cairn["block_output"][layer - 1].T
    W = theta["layers"][layer]
    return np.stack([layer_norm(e, W["gamma_1"], W["beta_1"]) for e in X.T], axis=1), W["attention"]


@pytest.mark.parametrize("layer", [0, 1])
def test_attention(theta, cairn, layer):
    X, W = read_by_attention(theta, cairn, layer)
    for h, W_h in enumerate(W["heads"]):
        values = attention(X, X, W_h, causal(X))
        close(values, cairn["mixer_heads"][layer][:, h].T)
        for t in range(X.shape[1]):  # algorithm 3 for a token and those before it is a column of algorithm 4
            single = single_query_attention(X[:, t], list(X[:, : t + 1].T), W_h)
            np.testing.assert_allclose(single, values[:, t], rtol=1e-12, atol=1e-14)
            close(single, cairn["mixer_heads"][layer][t, h])


@pytest.mark.parametrize("layer", [0, 1])
def test_multi_head_attention(theta, cairn, layer):
    X, W = read_by_attention(theta, cairn, layer)
    close(multi_head_attention(X, X, W, causal(X)), cairn["mixer_output"][layer].T)


def test_layer_norm(theta, cairn):
    for e, normed in zip(cairn["block_output"][-1], cairn["final_norm"].T, strict=True):
        close(layer_norm(e, theta["gamma"], theta["beta"]), normed)


def test_unembedding(theta, cairn):
    for e, logits in zip(cairn["final_norm"].T, cairn["logits"], strict=True):
        close(unembedding(e, theta["W_u"]), np.exp(logits) / np.exp(logits).sum())


def test_decoder(theta, cairn):
    P = d_transformer(TEXT, theta)
    np.testing.assert_allclose(P.sum(axis=0), 1, rtol=1e-14)
    close(np.log(P.T), jax.nn.log_softmax(cairn["logits"]), rtol=1e-4, atol=1e-5)


def test_decoder_training_is_a_step_of_gradient_descent(tiny_experiment, params, theta):
    rate = 0.01
    experiment = tiny_experiment(
        model=CONFIG,
        optimizer=SGD(momentum=0.0),
        schedule=Constant(peak=rate * (len(TEXT) - 1)),
        training__clip_norm=None,
    )
    row = np.array([TEXT[:-1]], np.int32)
    batch = {
        "tokens": row,
        "targets": np.array([TEXT[1:]], np.int32),
        "weights": np.ones(row.shape, np.float32),
        "segment_ids": np.ones_like(row),
        "positions": np.arange(row.size, dtype=np.int32)[None],
    }
    state = init_state(StateConfig.of(experiment), 0, params)
    stepped, metrics = jax.jit(functools.partial(train_step, experiment, Layout()))(state, batch)
    expected = d_training([TEXT], theta, rate)
    found = decoder_of(stepped.all_params)
    P = d_transformer(TEXT, theta)
    assert float(metrics["loss"]) == pytest.approx(-np.log([P[y, t] for t, y in enumerate(TEXT[1:])]).mean(), rel=1e-5)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), expected, theta)
    assert sum(x > 1e-4 for x in jax.tree.leaves(moved)) > 0.8 * len(jax.tree.leaves(moved))  # b_k has no gradient
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_greedy_inference(params, theta):
    for prompt in ([3, 1], [6, 0, 2]):
        tokens = 8
        texts = generate(CONFIG, params, [prompt], Sampling(temperature=0, max_tokens=tokens))
        assert d_inference(prompt, theta, tokens, 0) == texts[0]


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_temperature(theta, cairn, tau):
    """Both draw from the same distribution, by random numbers of their own."""
    p = d_transformer(TEXT, theta)[:, -1]
    scaled = filter_logits(Sampling(temperature=tau).rules(), cairn["logits"][-1:])[0]
    close(tempered(p, tau), jax.nn.softmax(scaled))


def test_inference_draws_from_that_distribution(theta):
    rng, draws = np.random.default_rng(0), 400
    counts = np.bincount(
        [d_inference([3, 1], theta, 1, 1.5, rng)[0] for _ in range(draws)], minlength=CONFIG.vocab_size
    )
    expected = tempered(d_transformer([3, 1], theta)[:, -1], 1.5)
    assert np.abs(counts / draws - expected).max() < 4 * np.sqrt(0.25 / draws)


def test_heads_of_a_layer_are_those_of_the_whole(params, theta):
    mixer = {name: np.asarray(x[1], np.float64) for name, x in params["blocks"]["mixer"].items()}
    for one, other in zip(
        jax.tree.leaves(heads_of(mixer)), jax.tree.leaves(theta["layers"][1]["attention"]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
