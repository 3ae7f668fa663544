"""Algorithms 8, 9, 11, 12 and 15, beside Cairn's modules with the same parameters."""

import functools

import jax
import numpy as np
import pytest

from model.attention.directions import Bidirectional
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.feedforward.mlp import MLP
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.layout import Layout
from model.norms import LayerNorm
from model.positions.absolute import Learned
from model.residual import PostNorm
from model.transformer import abstract_params, forward
from model.vocabulary.embedding import Untied
from model.vocabulary.prediction_head import PredictionHead
from tests.formal_algorithms.parameters import Hides, encoder_decoder_of, encoder_of
from tests.formal_algorithms.training import e_training, ed_inference, ed_training, masked_token_loss, next_token_loss
from tests.formal_algorithms.transformers import e_transformer, ed_transformer
from tests.tiers import SWEEP
from train.data.pairs.option import Pairs
from train.objectives.drawn import with_draws
from train.objectives.masked import MaskedTokens
from train.optimizers.options import SGD
from train.schedules import Constant
from train.state import StateConfig, init_state
from train.step import train_step

ATTENTION = {"num_heads": 2, "qkv_bias": True, "output_bias": True}
LONGEST, BOS, MASK = 16, 2, 6
PAPER = {
    "vocab_size": 7,
    "context_length": LONGEST,
    "num_layers": 2,
    "width": 8,
    "position": Learned(),
    "mixer": GroupedQuery(**ATTENTION),
    "norm": LayerNorm(epsilon=1e-12),  # the paper has none
    "residual": PostNorm(),
    "unembedding": Untied(),
}
RELU = MLP(width=6, activation="relu", bias=True)
BOTH = ModelConfig(
    **PAPER,
    ffn=RELU,
    encoder=Encoder(
        num_layers=2,
        context_length=LONGEST,
        mixer=GroupedQuery(**ATTENTION),
        ffn=RELU,
        position=Learned(),
        cross=CrossAttention(**ATTENTION),
        start_token=BOS,
    ),
)
ENCODER = ModelConfig(
    **PAPER,
    ffn=MLP(width=6, activation="gelu", bias=True),
    visibility=Bidirectional(),
    prediction_head=PredictionHead(activation="gelu"),
)
SOURCES, TEXTS = ([3, 1, 6], [5, 0, 0, 4, 1]), ([BOS, 4, 4, 0], [BOS, 1, 5, 3])
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)  # float32 against float64


def drawn(config):
    rng = np.random.default_rng(6)  # a draw whose greedy texts are no repetitions of one token

    def draw(path, leaf):
        return (float(path[-1].key == "scale") + 0.5 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


@pytest.fixture(scope="module")
def both():
    """Parameters of the encoder-decoder, with one table of positions for sources and texts, as the paper has it."""
    params = drawn(BOTH)
    return params | {"encoder": params["encoder"] | {"position": params["position"]}}


@pytest.fixture(scope="module")
def encoder():
    return drawn(ENCODER)


def rows_of(texts):
    """The texts as rows that are padded on the right, and their lengths."""
    lengths = np.array([len(text) for text in texts])
    rows = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows, lengths


def test_encoder_decoder(both):
    """Rows of sources are padded where the paper has one pair at a time."""

    @jax.jit
    def logits(params, tokens_BT, source):
        return forward(BOTH, params, tokens_BT, source=source).logits_BTV

    found = logits(both, np.array(TEXTS, np.int32), Source.of_lengths(*rows_of(SOURCES)))
    theta = encoder_decoder_of(both)
    for z, x, logits_TV in zip(SOURCES, TEXTS, np.asarray(found, np.float64), strict=True):
        close(jax.nn.log_softmax(logits_TV), np.log(ed_transformer(z, x, theta).T))


def test_encoder(encoder):
    @jax.jit
    def logits(params, tokens_BT, lengths_B):
        return forward(ENCODER, params, tokens_BT, lengths_B=lengths_B).logits_BTV

    found = logits(encoder, *rows_of(SOURCES))
    theta = encoder_of(encoder)
    for x, logits_TV in zip(SOURCES, np.asarray(found, np.float64), strict=True):
        close(jax.nn.log_softmax(logits_TV[: len(x)]), np.log(e_transformer(x, theta).T))


def row_of(tokens):
    """A batch of one row without targets."""
    row = np.array([tokens], np.int32)
    positions = np.arange(row.size, dtype=np.int32)[None]
    ones = np.ones_like(row)
    return {"tokens": row, "weights": ones.astype(np.float32), "segment_ids": ones, "positions": positions}


def stepped(experiment, state, batch):
    """The parameters after a step of the experiment, and its loss."""
    new, metrics = jax.jit(functools.partial(train_step, experiment, Layout()))(state, batch)
    return new.all_params, float(metrics["loss"])


def assert_same_step(found, expected, before):
    """Every array is as expected, and most have moved: biases of keys have no gradient."""
    moved = [np.abs(new - old).max() for new, old in zip(*map(jax.tree.leaves, (expected, before)), strict=True)]
    assert sum(x > 1e-4 for x in moved) > 0.8 * len(moved)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.fixture
def descent(tiny_experiment):
    """A function that makes an experiment with plain gradient descent at the rate of 0.03."""
    every = {"optimizer": SGD(momentum=0.0), "schedule": Constant(peak=0.03), "training__clip_norm": None}
    return lambda **changes: tiny_experiment(**every, samples__prompts=(), **changes)


def test_encoder_decoder_training_is_a_step_of_gradient_descent(descent, both):
    z, x = SOURCES[0], TEXTS[0]
    data = Pairs(path="pairs.jsonl", batch_size=1, source_length=len(z), sequence_length=len(x) - 1)
    experiment = descent(model=BOTH, data=data)
    batch = row_of(x[:-1]) | {"targets": np.array([x[1:]], np.int32), "source": np.array([z], np.int32)}
    batch["source_segment_ids"] = np.ones_like(batch["source"])
    params, loss = stepped(experiment, init_state(StateConfig.of(experiment), 0, both), batch)
    theta, found = encoder_decoder_of(both), encoder_decoder_of(params)
    found["W_p"] += np.asarray(params["encoder"]["position"]["table"]).T - theta["W_p"]  # both tables' steps
    assert loss == pytest.approx(next_token_loss(ed_transformer(z, x, theta), x) / (len(x) - 1), rel=1e-5)
    assert_same_step(found, ed_training([(z, x)], theta, 0.03 / (len(x) - 1)), theta)


@SWEEP
def test_encoder_training_is_a_step_of_gradient_descent(descent, encoder):
    """The paper is given the tokens that Cairn's step hides."""
    x, objective = [3, 1, 5, 0, 0, 4], MaskedTokens(rate=0.5, mask_share=1.0, random_share=0.0)
    experiment = descent(model=ENCODER, objective=objective)
    state = init_state(StateConfig.of(experiment), 0, encoder)
    batch = row_of(x) | {"text": np.ones((1, len(x)), np.int32)}
    hidden = np.asarray(with_draws(objective, ENCODER, batch, state.key, state.step)["hidden"][0] > 0)
    count = hidden.sum()
    assert 1 < count < len(x)
    params, loss = stepped(experiment, state, batch)
    theta = encoder_of(encoder)
    assert loss == pytest.approx(masked_token_loss(x, hidden, MASK, theta) / count, rel=1e-5)
    expected = e_training([x], theta, 0.03 / count, objective.rate, MASK, Hides(hidden))
    assert_same_step(encoder_of(params), expected, theta)


def test_greedy_inference(both):
    """One text ends with the mark, the others at the bound."""
    theta, eos, bound = encoder_decoder_of(both), 3, 6
    expected = [ed_inference(z, theta, BOS, eos, 0, longest=1 + bound) for z in SOURCES]
    assert (expected[1][-1], len(expected[0]), len(expected[1])) == (eos, 1 + bound, 4)
    found = generate(BOTH, both, SOURCES, Sampling(temperature=0, max_tokens=bound), end=eos)
    assert [[BOS, *text] for text in found] == expected
