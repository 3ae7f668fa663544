"""Losses, their gradients and log-probabilities against `trl`, recorded by tests/parity/alignment/trl_preference.py."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.layout import ONE_DEVICE
from model.norms import RMSNorm
from model.parameters.names import flatten, unflatten
from model.positions.rotary import Rotary
from model.transformer import abstract_params
from model.vocabulary.embedding import Untied
from model.vocabulary.score_head import ScoreHead
from tests.parity.alignment import tiny
from tests.tiers import representatives
from train.objectives.answers import log_probabilities
from train.objectives.preference import DPO, IPO, KTO, ORPO, SimPO
from train.objectives.reward import RewardModel

RECORDED = json.loads(
    (pathlib.Path(__file__).parents[2] / "fixtures" / "alignment" / "trl_preference.json").read_text()
)
MODEL = ModelConfig(
    vocab_size=tiny.VOCAB,
    context_length=tiny.LENGTH,
    num_layers=tiny.LAYERS,
    width=tiny.WIDTH,
    mixer=GroupedQuery(num_heads=tiny.HEADS),
    ffn=Gated(width=tiny.FFN, activation="silu"),
    position=Rotary(theta=tiny.THETA),
    norm=RMSNorm(epsilon=tiny.EPSILON),
    unembedding=Untied(),
    score_head=ScoreHead(),
)


def params_of(seed):
    drawn, shapes = tiny.weights(seed), abstract_params(MODEL)
    assert {name: x.shape for name, x in flatten(shapes).items()} == {name: x.shape for name, x in drawn.items()}
    return unflatten(shapes, {name: jnp.asarray(x) for name, x in drawn.items()})


def batch_of(rows, *texts):
    """The fields of texts, each a list of (prompt, answer)."""
    batch = {}
    for text, answers in zip(texts, rows, strict=True):
        shape = (len(answers), tiny.LENGTH)
        tokens, targets, weights = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for row, (prompt, answer) in enumerate(answers):
            ids = prompt + answer
            tokens[row, : len(ids)], targets[row, : len(ids) - 1] = ids, ids[1:]
            weights[row, len(prompt) - 1 : len(ids) - 1] = 1
        batch |= {f"{text}tokens": tokens, f"{text}targets": targets, f"{text}weights": weights}
    return batch


@pytest.fixture(scope="module")
def pairs():
    rows = [(p, c) for p, c, _ in tiny.pairs()], [(p, r) for p, _, r in tiny.pairs()]
    margin = np.broadcast_to(np.array(tiny.MARGINS, np.float32)[:, None], (4, tiny.LENGTH))
    return with_reference(batch_of(rows, "chosen_", "rejected_") | {"margin": margin}, ("chosen_", "rejected_"))


@pytest.fixture(scope="module")
def labels():
    rows = [[], []]
    for prompt, answer, other, _ in tiny.labelled():
        rows[0].append((prompt, answer))
        rows[1].append((prompt, other))
    label = np.array([[float(label)] * tiny.LENGTH for *_, label in tiny.labelled()], np.float32)
    return with_reference(batch_of(rows, "", "other_") | {"label": label}, ("", "other_"))


def with_reference(batch, texts):
    logps = functools.partial(log_probabilities, MODEL, texts=texts, dropout_key=None, layout=ONE_DEVICE)
    before = jax.jit(lambda params, batch: logps(params, batch).logp)(params_of(0), batch)
    spread = (jnp.broadcast_to(before[:, k, None], (len(before), tiny.LENGTH)) for k in range(2))
    return batch | {f"{text}reference": x for text, x in zip(texts, spread, strict=True)}


OBJECTIVES = {
    "dpo": DPO(beta=tiny.BETA),
    "ipo": IPO(tau=tiny.TAU, average=True),
    "simpo": SimPO(beta=tiny.SIMPO_BETA, gamma=tiny.GAMMA),
    "orpo": ORPO(weight_of_odds=tiny.ODDS),
    "kto": KTO(beta=tiny.BETA, desirable=tiny.DESIRABLE, undesirable=tiny.UNDESIRABLE),
    "reward": RewardModel(margins=True, centring=tiny.CENTRING),
}


@pytest.mark.parametrize("name", representatives(OBJECTIVES, "dpo", "reward"))
def test_losses_and_gradients_are_those_of_trl(name, pairs, labels):
    batch, recorded, objective = labels if name == "kto" else pairs, RECORDED[name], OBJECTIVES[name]

    def mean(params):
        total, sums = objective.loss(MODEL, params, batch, dropout_key=None, layout=ONE_DEVICE)
        return total / objective.weight(batch), sums

    (loss, sums), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(params_of(1))
    assert float(loss) == pytest.approx(recorded["loss"], rel=2e-5)
    norm = np.sqrt(sum(float(np.sum(np.square(np.asarray(x, np.float64)))) for x in jax.tree.leaves(gradient)))
    assert norm == pytest.approx(recorded["grad_norm"], rel=1e-4)
    for number in ("chosen_logp", "rejected_logp", "chosen_score", "rejected_score"):
        if number in recorded:
            assert float(sums.numbers[number]) == pytest.approx(sum(recorded[number]), rel=1e-5), number
    if name == "kto":
        assert recorded["divergence"][0] > 0, "a divergence of 0 would not show its use"
        assert float(sums.numbers["divergence"]) / 4 == pytest.approx(recorded["divergence"][0], rel=1e-4)
