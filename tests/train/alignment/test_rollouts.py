"""A small run of GRPO with all options: its rollouts, its weights, its reference, and its end after a crash."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from tests.train.test_loop import parameters
from train.alignment.rollouts import RolloutPreparation
from train.data.config import Bytes, Data, SeparateText
from train.data.prompts import Prompts
from train.loop import train
from train.objectives.policy import GRPO
from train.objectives.rollout_options import Reward, Rollouts, Tool
from train.run.loading import load_params
from train.run.metrics import read_metrics, read_samples
from train.run.pretrained import initial_params
from train.run.time_spent import read_time_spent

REWARD = """
def vowels(prompt, answer, fields):
    return 1 if "bb" in prompt else sum(letter in "aeiou" for letter in answer) / 4

def again(prompt, answer, fields):
    return "?"
"""
SMALL = {"model__num_layers": 1, "model__width": 16, "model__ffn__width": 16, "samples__prompts": ()}


@pytest.fixture(scope="module")
def start(tiny_experiment, tmp_path_factory):
    """A run whose model ends a text after a few letters."""
    folder = tmp_path_factory.mktemp("start")
    texts = [{"text": "abe"[i % 3] * (1 + i // 3 % 3)} for i in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    path = str(folder / "texts.jsonl")
    data = Data(path=path, tokenizer=Bytes(), validation=SeparateText(path=path), batch_size=8, sequence_length=16)
    train(tiny_experiment(**SMALL, data=data, training__num_steps=60), folder / "run", say=lambda line: None)
    return folder / "run"


@pytest.fixture(scope="module")
def experiment(tiny_experiment, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    rows = [{"prompt": f"say {word}", "answer": word} for word in ("abe", "bae", "eab", "abb", "ebb", "bea", "aeb")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    return tiny_experiment(
        **SMALL,
        data=Prompts(
            path=str(folder / "prompts.jsonl"),
            tokenizer=Bytes(),
            group=4,
            batch_size=8,
            sequence_length=16,
            held_out=1e-6,
        ).starting_from(None),
        objective=GRPO(
            reward=Reward(function=f"{folder / 'reward.py'}:vowels"),
            rollouts=Rollouts(max_tokens=6, rows=2, temperature=0.8, minibatches=2, epochs=2, truncated="mask"),
            kl=0.1,
            filter_equal=True,
            overlong=2,
        ),
        schedule="Constant(peak=2e-3)",
        training__num_steps=6,
        training__init_from=str(start),
        checkpoints__every=3,
        evaluation__every=6,
        logging__every=1,
    )


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """A finished run, and of each rollout its answers, its rewards and its arrays."""
    run, rollouts, arrays_of = tmp_path_factory.mktemp("grpo") / "run", [], RolloutPreparation._arrays

    def kept(self, prompts, answers, rewards):
        rollouts.append((answers, rewards, arrays_of(self, prompts, answers, rewards)))
        return rollouts[-1][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutPreparation, "_arrays", kept)
        train(experiment, run, say=lambda line: None)
    return run, rollouts


def test_the_metrics_of_two_rollouts_of_which_each_serves_two_epochs_of_two_updates(whole):
    run, rollouts = whole
    assert len(rollouts) == 2
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    ratios = [line["ratio"] for line in lines]
    assert ratios[::4] == [1, 1], ratios  # the first update of a rollout, at any temperature
    assert all(ratio not in (0, 1) for ratio in (*ratios[1:4], ratios[5])), ratios
    assert all(0 <= line["logprob_difference"] < 1e-5 for line in lines)
    assert len({line["reward"] for line in lines[:4]}) == 1  # four updates of one rollout
    assert all(np.isfinite(line["loss"]) and line["answer_tokens"] <= 6 for line in lines)
    assert 0 < lines[0]["truncated_share"] < 1
    assert 0 <= lines[0]["kl"] < 1e-9 < 1e-6 < lines[3]["kl"]  # the policy starts as the reference
    assert "say " in read_samples(run)[0][1]
    (spent,) = read_time_spent(run)
    assert all(spent[name] > 0 for name in ("rollout", "reward", "reference"))


def test_weights_and_advantages_are_those_of_the_options(whole):
    """Groups of equal rewards and answers cut off by the limit do not count; long answers lose reward."""
    seen = set()
    for answers, rewards, arrays in whole[1]:
        for first in range(0, len(answers), 4):
            group = range(first, first + 4)
            differ = len({rewards[i] for i in group}) > 1
            lost = [{5: 0.5, 6: 1.0}.get(len(answers[i].ids), 0.0) for i in group]
            total = rewards[first : first + 4] - lost
            gain = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
            np.testing.assert_allclose(arrays["advantages"][first : first + 4, 0], gain, rtol=1e-5, atol=1e-6)
            for i in group:
                counts = differ and not answers[i].truncated
                assert arrays["drawn"][i].sum() == len(answers[i].ids)
                np.testing.assert_array_equal(arrays["weights"][i], arrays["drawn"][i] * counts)
                seen.add((differ, answers[i].truncated))
    assert seen >= {(True, True), (True, False), (False, False)}


def test_the_reference_is_the_run_of_init_from(whole, experiment):
    _, _, arrays = whole[1][1]  # those of the second rollout, when the policy is another
    logits = np.asarray(forward(experiment.model, initial_params(experiment), arrays["tokens"]).logits_BTV, np.float64)
    logits /= 0.8
    logprob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logprob, arrays["targets"][..., None], -1)[..., 0]
    drawn = arrays["drawn"] > 0
    np.testing.assert_allclose(arrays["reference"][drawn], expected[drawn], rtol=1e-4, atol=1e-5)
    assert np.abs(arrays["reference"] - arrays["old"])[drawn].max() > 1e-3


def test_a_run_that_crashes_between_two_updates_of_a_rollout_ends_the_same(whole, experiment, tmp_path):
    run, again = whole[0], tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "6")  # of the steps after the third there are lines, and no state
    train(experiment, again, say=lambda line: None)
    for name in ("metrics.jsonl", "samples.txt"):
        assert (run / name).read_bytes() == (again / name).read_bytes()
    assert parameters(run) == parameters(again)
    assert len(read_time_spent(again)) == 2


def test_data_without_prompts_and_a_distance_without_reference_are_refused(experiment, tiny_experiment, tmp_path):
    with pytest.raises(UserError, match=r"GRPO answers prompts; set data=Prompts"):
        GRPO().preparation(type("Session", (), {"experiment": tiny_experiment()}))
    training = dataclasses.replace(experiment.training, init_from=None)
    from_nothing = dataclasses.replace(experiment, training=training)
    with pytest.raises(UserError, match="objective.kl: the reference is the run of training.init_from"):
        GRPO(kl=0.1).preparation(type("Session", (), {"experiment": from_nothing}))


def test_rollouts_one_step_behind_are_of_the_parameters_of_the_step_before_and_weighted(experiment, tmp_path):
    """Sampled by the parameters of the step before, trained with those of the step; the same after a crash.

    After each answer that ended by itself a tool says "?", which is no part of the loss, and a second answer follows.
    """
    tool = Tool(function=experiment.objective.reward.function.replace("vowels", "again"))
    option = dataclasses.replace(
        experiment.objective.rollouts,
        minibatches=1,
        epochs=1,
        behind=1,
        importance_cap=1.01,
        truncated="count",
        tool=tool,
    )
    behind = dataclasses.replace(
        experiment,
        objective=dataclasses.replace(experiment.objective, rollouts=option, filter_equal=False),
        training=dataclasses.replace(experiment.training, num_steps=3),
        checkpoints=dataclasses.replace(experiment.checkpoints, every=1, keep_every=1),
    )
    run, again, kept, completed = tmp_path / "run", tmp_path / "again", [], RolloutPreparation._completed

    def keep(self, params, arrays):
        kept.append(completed(self, params, arrays))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutPreparation, "_completed", keep)
        train(behind, run, say=lambda line: None)
    start = initial_params(behind)
    params = [start, start, *(load_params(run, str(step)).params for step in (1, 2))]
    logits_of = jax.jit(lambda params, ids: forward(behind.model, params, ids).logits_BTV)
    for n, arrays in enumerate(kept):
        drawn = arrays["drawn"] > 0
        said = ~drawn & (np.cumsum(drawn, axis=1) > 0) & (np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1] > 0)
        assert set(said.sum(axis=1)) == {0, 1}
        assert (arrays["targets"][said] == ord("?")).all()
        for name, of in (("sampled", params[n]), ("old", params[n + 1])):
            logits = logits_of(of, arrays["tokens"]) / 0.8
            logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), arrays["targets"][..., None], -1)[..., 0]
            np.testing.assert_allclose(arrays[name][drawn], logprob[drawn], rtol=1e-4, atol=1e-5, err_msg=f"{name} {n}")
        weight = np.minimum(np.exp(arrays["old"] - arrays["sampled"]), 1.01)[drawn]
        np.testing.assert_array_equal(arrays["importance"][drawn], weight)
    assert weight.min() < 1 < weight.max() == np.float32(1.01)
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    assert [line["ratio"] for line in lines] == [1, 1, 1]
    assert lines[0]["importance"] == pytest.approx(1, abs=1e-5)
    assert lines[2]["logprob_difference"] > 1e-3 > 1e-5 > lines[0]["logprob_difference"]
    shutil.copytree(run, again)
    for step in (2, 3):
        shutil.rmtree(again / "checkpoints" / str(step))
    train(behind, again, say=lambda line: None)
    assert (run / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
