"""Log-probabilities of answers against NumPy; what the compiled step of a preference loss holds and moves."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.transformer import forward
from model.vocabulary import cross_entropy
from tests.train.parallel.test_collectives import collectives
from tests.train.test_whole_arrays import arrays
from train.objectives.answers import PAIR, interleaved, last_tokens, log_probabilities
from train.objectives.next_token import NextToken
from train.objectives.preference import DPO
from train.optimizers.options import SGD
from train.parallel.mesh import Mesh, make_mesh
from train.state import StateConfig, init_sharded, state_shardings
from train.step import compile_train_step


@pytest.fixture(scope="module")
def experiment(tiny_experiment, random_pairs):
    """Plain gradient descent at rate 1, by which a step shows its gradient."""
    return tiny_experiment(
        data=random_pairs.data,
        objective=DPO(beta=0.5),
        optimizer=SGD(momentum=0.0),
        schedule="Constant(peak=1.0)",
        training__clip_norm="None",
        model__num_layers=1,
        model__width=16,
        model__ffn__width=16,
        samples__prompts=(),
    )


def by_numpy(model, params, batch):
    """log p of each answer, (P, 2), from whole logits in float64."""
    columns, logits_of = [], jax.jit(lambda p, ids: forward(model, p, ids).logits_BTV)
    for text in PAIR:
        logits = np.asarray(logits_of(params, batch[f"{text}tokens"]), np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        of_targets = np.take_along_axis(logp, batch[f"{text}targets"][..., None], -1)[..., 0]
        columns.append((of_targets * batch[f"{text}weights"]).sum(1))
    return np.stack(columns, 1)


def test_log_probabilities_are_those_of_whole_logits(experiment, random_pairs):
    model, batch = experiment.model, random_pairs.batch()
    params = random_pairs.params(model)
    run = lambda p: log_probabilities(model, p, batch, dropout_key=None, layout=ONE_DEVICE)[:2]  # noqa: E731
    logp, length = jax.jit(run)(params)
    expected = by_numpy(model, params, batch)
    np.testing.assert_allclose(logp, expected, rtol=1e-5)
    lengths = np.stack([batch[f"{text}weights"].sum(1) for text in PAIR], 1)
    np.testing.assert_array_equal(length, lengths)
    loss = lambda p: experiment.objective.loss(model, p, batch, dropout_key=None, layout=ONE_DEVICE)  # noqa: E731
    _, sums = jax.jit(loss)(params)
    h = expected - np.stack([batch[f"{text}reference"][:, 0] for text in PAIR], 1)
    margin = 0.5 * (h[:, 0] - h[:, 1])
    assert float(sums.loss) == pytest.approx(-np.log(1 / (1 + np.exp(-margin))).sum(), rel=1e-4)
    assert float(sums.numbers["accuracy"]) == (margin > 0).sum()
    assert float(sums.numbers["chosen_logp"]) == pytest.approx(expected[:, 0].sum(), rel=1e-5)
    assert float(sums.numbers["reference_kl"]) == pytest.approx(-h.mean(1).sum(), rel=1e-4)


def test_what_is_no_answer_changes_nothing(experiment, random_pairs):
    """Padding may hold any tokens, and a row without answers adds nothing to any sum."""
    batch, model = random_pairs.batch(), experiment.model
    params = random_pairs.params(model)
    run = lambda batch: experiment.objective.loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)  # noqa: E731
    loss = jax.jit(run)
    _, before = loss(batch)
    last = np.asarray(last_tokens(batch["chosen_weights"]))
    other = batch | {"chosen_tokens": np.where(np.arange(8) > last[:, None], 7, batch["chosen_tokens"])}
    assert (other["chosen_tokens"] != batch["chosen_tokens"]).any()
    _, after = loss(other)
    assert float(after.loss) == float(before.loss)
    padded = {name: np.concatenate([x, np.zeros_like(x[:2])]) for name, x in batch.items()}
    _, with_padding = loss(padded)
    for name, number in before.numbers.items():
        assert float(with_padding.numbers[name]) == pytest.approx(float(number), rel=1e-6), name
    assert float(with_padding.loss) == pytest.approx(float(before.loss), rel=1e-6)
    objective = experiment.objective
    assert (int(objective.weight(padded)), int(objective.tokens(padded))) == (8, int(objective.tokens(batch)))


def test_rows_keep_their_order():
    batch = {"a": np.arange(6).reshape(3, 2), "b": -np.arange(6).reshape(3, 2)}
    both = interleaved({"a_x": batch["a"], "b_x": batch["b"]}, "x", ("a_", "b_"), ONE_DEVICE)
    np.testing.assert_array_equal(both, [[0, 1], [0, -1], [2, 3], [-2, -3], [4, 5], [-4, -5]])
    np.testing.assert_array_equal(last_tokens(jnp.asarray([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])), [3, 1, 0])


def stepped(experiment, batch, mesh):
    state = init_sharded(
        StateConfig.of(experiment), 0, state_shardings(StateConfig.of(experiment), mesh, experiment.sharding)
    )
    compiled = compile_train_step(experiment, mesh).lower(state, batch).compile()
    after, metrics = compiled(state, batch)
    return jax.device_get(after.params), jax.device_get(metrics), compiled.as_text()


def test_eight_devices_and_micro_batches_are_one(experiment, random_pairs):
    """Rows do not move: the collectives are those of next-token prediction on as many texts."""
    batch = {name: x for name, x in random_pairs.batch(16).items() if name != "margin"}
    experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=16))
    one, metrics, _ = stepped(experiment, batch, make_mesh(Mesh(), jax.devices()[:1]))
    training = dataclasses.replace(experiment.training, gradient_accumulation=2)
    split = dataclasses.replace(experiment, training=training, mesh=Mesh(data=4, fsdp=2))
    other, of_split, text = stepped(split, batch, make_mesh(split.mesh))
    for name in ("loss", "margin", "accuracy", "chosen_logp", "rejected_logp", "reference_kl", "grad_norm"):
        assert float(of_split[name]) == pytest.approx(float(metrics[name]), rel=1e-5), name
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other, one)
    texts = {
        name: np.stack([batch[f"{text}{name}"] for text in PAIR], 1).reshape(32, 8)
        for name in ("tokens", "targets", "weights")
    }
    next_token = dataclasses.replace(split, objective=NextToken(), data=dataclasses.replace(split.data, batch_size=32))
    *_, of_tokens = stepped(next_token, texts, make_mesh(split.mesh))
    assert collectives(text) == collectives(of_tokens)
    assert ("all-gather", "f32", (16, 16)) in collectives(text)  # a matrix of FSDP: the walk sees collectives


def test_no_array_has_all_tokens_and_the_vocabulary(experiment, random_pairs, monkeypatch):
    """128 tokens of eight pairs, and logits of 32 of them at a time."""
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 32 * 257)
    step = compile_train_step(experiment, make_mesh(Mesh(), jax.devices()[:1]))
    state = jax.eval_shape(lambda: init_sharded(StateConfig.of(experiment), 0, None))
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in random_pairs.batch().items()}
    shapes = set(arrays(jax.make_jaxpr(step)(state, batch).jaxpr))
    wide = [shape for shape in shapes if 257 in shape]
    assert (32, 257) in wide
    assert max(map(math.prod, wide)) == 32 * 257
