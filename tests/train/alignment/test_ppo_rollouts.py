"""A small run of PPO: its first step against a naive loss on whole logits, its numbers, and its end after a crash."""

import functools
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.parameters.names import flatten
from model.transformer import forward, scores
from model.vocabulary.score_head import ScoreHead
from tests.tiers import SWEEP
from tests.train.test_loop import parameters
from train.alignment.ppo_rollouts import PPOPreparation
from train.alignment.rollouts import Scored
from train.data.config import Bytes
from train.data.prompts import Prompts
from train.loop import train
from train.objectives.ppo import PPO
from train.objectives.rollout_options import Reward, Rollouts
from train.run.loading import load_params
from train.run.metrics import read_metrics
from train.run.pretrained import initial_params

REWARD = """
def vowels(prompt, answer, fields):
    return sum(letter in "abc" for letter in answer) / 4 - 0.5
"""
RATE, TEMPERATURE = 0.5, 0.8


@pytest.fixture(scope="module")
def experiment(preference_experiment, dpo_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    rows = [{"prompt": f"{i:02d}", "answer": "abc"[: 1 + i % 3]} for i in range(9)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    rollouts = Rollouts(max_tokens=6, rows=2, temperature=TEMPERATURE, minibatches=2, epochs=2)
    reward = Reward(function=f"{folder / 'reward.py'}:vowels")
    return preference_experiment(
        data=Prompts(
            path=str(folder / "prompts.jsonl"), tokenizer=Bytes(), group=2, batch_size=8, sequence_length=12
        ).starting_from(None),
        model__score_head=ScoreHead(),
        objective=PPO(reward=reward, rollouts=rollouts, kl=0.2, gamma=0.9, gae_lambda=0.8, value_weight=0.5),
        optimizer="SGD(momentum=0.0)",
        schedule=f"Constant(peak={RATE})",
        training__num_steps=6,
        training__init_from=str(dpo_run),
        training__clip_norm=None,
        checkpoints__every=1,
        checkpoints__keep_every=1,
        evaluation__every=6,
    )


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """A finished run, and the rewards and the arrays of each rollout."""
    run, rollouts, credit = tmp_path_factory.mktemp("ppo") / "run", [], PPOPreparation._credit

    def kept(self, arrays, rewards, own):
        found = credit(self, arrays, rewards, own)
        rollouts.append((rewards, dict(arrays)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOPreparation, "_credit", kept)
        train(experiment, run, say=lambda line: None)
    return run, rollouts


@functools.partial(jax.jit, static_argnums=0)
def on_whole_logits(model, params, arrays):
    """Log-probabilities of the targets and values, with all logits in memory."""
    output = forward(model, params, jnp.asarray(arrays["tokens"]))
    logprob = jax.nn.log_softmax(output.logits_BTV / TEMPERATURE)
    of_targets = jnp.take_along_axis(logprob, jnp.asarray(arrays["targets"])[..., None], -1)[..., 0]
    return of_targets, scores(model, params, output.stream_BTD)[..., 0]


def texts_of(arrays):
    return {name: arrays[name] for name in ("tokens", "targets")}


def naive_credit(drawn, rewards, log_ratio, values):
    """Advantages and returns by a loop, whitened over all drawn tokens."""
    gains, returns = np.zeros((2, *drawn.shape))
    for i, reward in enumerate(rewards):
        places = np.flatnonzero(drawn[i])
        for t in places:
            later = [u for u in places if u >= t]
            for u in later:
                after = values[i, u + 1] if u + 1 in places else 0.0
                delta = -0.2 * log_ratio[i, u] + (reward if u == places[-1] else 0.0) + 0.9 * after - values[i, u]
                gains[i, t] += (0.9 * 0.8) ** (u - t) * delta
            returns[i, t] = gains[i, t] + values[i, t]
    some = gains[drawn > 0]
    return np.where(drawn > 0, (gains - some.mean()) / some.std(), 0), returns


def test_the_first_two_steps_are_those_of_a_naive_loss(whole, experiment):
    """The second is another minibatch of the rollout, whose policy is no longer the one that drew it."""
    run, rollouts = whole
    rewards, arrays = rollouts[0]
    model, start = experiment.model, initial_params(experiment)
    old, values = (np.asarray(x, np.float64) for x in on_whole_logits(model, start, texts_of(arrays)))
    gains, returns = naive_credit(arrays["drawn"], rewards, np.zeros_like(old), values)
    np.testing.assert_allclose(arrays["advantages"], gains, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(arrays["returns"], returns, rtol=1e-4, atol=1e-5)

    known = {"old": old, "values": values, "gains": gains, "returns": returns}
    known |= {name: arrays[name] for name in ("tokens", "targets", "drawn")}

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params, part):
        logprob, value = on_whole_logits(model, params, part)
        ratio = jnp.exp(logprob - part["old"])
        policy = -jnp.minimum(ratio * part["gains"], jnp.clip(ratio, 0.8, 1.2) * part["gains"])
        near = jnp.clip(value, part["values"] - 0.2, part["values"] + 0.2)
        error = jnp.maximum((value - part["returns"]) ** 2, (near - part["returns"]) ** 2) / 2
        return jnp.sum((policy + 0.5 * error) * part["drawn"]) / part["drawn"].sum()

    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    params = start
    for step, rows in ((1, slice(0, 8)), (2, slice(8, 16))):
        value, gradient = loss_and_gradient(params, {name: x[rows] for name, x in known.items()})
        assert lines[step - 1]["loss"] == pytest.approx(float(value), rel=1e-3, abs=1e-5)
        params = jax.tree.map(lambda x, g: x - RATE * g, params, gradient)
        found = flatten(load_params(run, str(step)).params)
        moved = flatten(start)
        for name, wanted in flatten(params).items():
            size = max(float(jnp.abs(wanted - moved[name]).max()), 1e-4)
            np.testing.assert_allclose(found[name], wanted, atol=1e-3 * size, err_msg=f"{name}, step {step}")
    assert lines[1]["ratio"] != 1


def test_the_metrics_of_two_rollouts(whole):
    lines = [line for line in read_metrics(whole[0]) if line["kind"] == "train"]
    assert [line["ratio"] for line in lines][::4] == [1, 1]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy starts as the reference
    assert abs(lines[4]["kl"]) > 1e-4
    assert all(line["value_explained"] <= 1 and line["value_loss"] > 0 for line in lines)
    assert len({line["reward"] for line in lines[:4]}) == 1


@SWEEP
def test_a_run_that_crashes_between_two_updates_of_a_rollout_ends_the_same(whole, experiment, tmp_path):
    run, again = whole[0], tmp_path / "again"
    shutil.copytree(run, again)
    for step in (4, 5, 6):
        shutil.rmtree(again / "checkpoints" / str(step))
    train(experiment, again, say=lambda line: None)
    assert (run / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
    assert parameters(run) == parameters(again)


def test_every_number_of_the_credit_changes_it():
    draw = np.random.default_rng(0)
    drawn = np.ones((2, 3), np.float32)
    own = Scored(*draw.normal(size=(3, 2, 3)))

    def gains(**changes):
        arrays = {"drawn": drawn, "weights": drawn, "reference": np.zeros((2, 3))}
        given = SimpleNamespace(_objective=PPO(**changes))
        PPOPreparation._credit(given, arrays, np.array([1.0, -0.5]), own)
        return arrays["advantages"]

    np.testing.assert_allclose([gains().mean(), gains().std()], [0, 1], atol=1e-6)
    for changes in ({"kl": 0.0}, {"gamma": 0.5}, {"gae_lambda": 0.5}, {"whiten": False}):
        assert not np.allclose(gains(**changes), gains(), rtol=1e-2), changes
