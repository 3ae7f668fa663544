"""A whole small run of GRPO: its rollouts are reproducible, and a run that is stopped and continued ends the same."""

import json

import numpy as np
import pytest

from model.errors import UserError
from tests.train.test_loop import parameters
from train.alignment.rollouts import seed_of
from train.data.config import Bytes
from train.data.prompts import Prompts
from train.loop import train
from train.objectives.policy import GRPO
from train.objectives.rollout_options import Reward, Rollouts
from train.run.metrics import read_metrics, read_samples
from train.run.time_spent import read_time_spent

REWARD = "def vowels(prompt, answer, fields):\n    return sum(letter in 'aeiou' for letter in answer) / 4\n"


@pytest.fixture
def experiment(tiny_experiment, tmp_path):
    rows = [{"prompt": f"say {word}", "answer": word} for word in ("abc", "bcd", "cde", "dea", "eab", "fgh", "hij")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    return tiny_experiment(
        data=Prompts(
            path=str(tmp_path / "prompts.jsonl"),
            tokenizer=Bytes(),
            group=4,
            batch_size=8,
            sequence_length=16,
            held_out=0.3,
        ),
        objective=GRPO(
            reward=Reward(function=f"{tmp_path / 'reward.py'}:vowels"),
            rollouts=Rollouts(max_tokens=4, rows=2, top_p=0.9, temperature=0.8, minibatches=2),
        ),
        training__num_steps=4,
        checkpoints__every=3,
        evaluation__every=4,
        samples__prompts=(),
        logging__every=1,
    )


def test_a_run_that_is_stopped_between_two_updates_of_a_rollout_ends_the_same(experiment, tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train(experiment, whole, say=lambda line: None)
    train(experiment, halved, hard_stop=3, say=lambda line: None)
    train(experiment, halved, say=lambda line: None)
    for name in ("metrics.jsonl", "samples.txt"):
        assert (whole / name).read_bytes() == (halved / name).read_bytes()
    assert parameters(whole) == parameters(halved)
    lines = [line for line in read_metrics(whole) if line["kind"] == "train"]
    assert [line["ratio"] for line in lines][::2] == [1, 1]  # the first update of a rollout, at any temperature
    assert lines[1]["ratio"] != 1
    assert all(0 <= line["logprob_difference"] < 1e-5 for line in lines)
    assert lines[0]["reward"] == lines[1]["reward"]  # two updates of one rollout
    assert all(np.isfinite(line["loss"]) and line["answer_tokens"] <= 4 for line in lines)
    assert "say " in read_samples(whole)[0][1]
    (spent,) = read_time_spent(whole)
    assert spent["rollout"] > 0
    assert spent["reward"] > 0


def test_data_without_prompts_and_a_distance_without_reference_are_refused(experiment, tiny_experiment, tmp_path):
    with pytest.raises(UserError, match=r"GRPO answers prompts; set data=Prompts"):
        GRPO().preparation(type("Session", (), {"experiment": tiny_experiment()}))
    with pytest.raises(UserError, match="objective.kl: the reference is the run of training.init_from"):
        GRPO(kl=0.1).preparation(type("Session", (), {"experiment": experiment}))


def test_each_rollout_has_draws_of_its_own():
    assert len({seed_of(seed, rollout) for seed in range(3) for rollout in range(5)}) == 15
    assert seed_of(1, 2) == seed_of(1, 2) < 2**32
