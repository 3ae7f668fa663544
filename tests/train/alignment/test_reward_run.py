"""Scores of drawn answers are those of the reward model on the same texts; runs that cannot judge are refused."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.vocabulary.score_head import ScoreHead
from train.alignment.preference_accuracy import answer_numbers, renderer_of
from train.alignment.reward_run import RewardRun
from train.alignment.rewards import Question
from train.data.config import Bytes
from train.data.conversations.found_template import save_template
from train.data.conversations.template import ChatTemplate
from train.data.preferences.reading import Preference
from train.data.prompts import Prompts
from train.data.shards.dataset import open_dataset
from train.hooks.interface import Session
from train.loop import train
from train.objectives.policy import GRPO
from train.objectives.reward import RewardModel
from train.objectives.rollout_options import RewardOf
from train.parallel.mesh import make_mesh
from train.parallel.table import layout_of
from train.run.loading import load_run


@pytest.fixture(scope="module")
def reward_run(preference_experiment, tmp_path_factory):
    run = tmp_path_factory.mktemp("judge") / "reward"
    changes = {"model__score_head": ScoreHead(), "training__num_steps": 2}
    train(preference_experiment(objective=RewardModel(), **changes), run, say=lambda line: None)
    return run


@pytest.fixture(scope="module")
def session(preference_experiment, reward_run):
    data = Prompts(path="none.jsonl", tokenizer=Bytes(), group=2, batch_size=8, sequence_length=12)
    experiment = preference_experiment(data=data, objective=GRPO(reward=RewardOf(run=str(reward_run))))
    mesh = make_mesh(experiment.mesh)
    return Session(
        experiment=experiment,
        folder=reward_run,
        dataset=open_dataset(reward_run / "data"),
        mesh=mesh,
        layout=layout_of(mesh, experiment.sharding),
        metrics=None,
        say=print,
    )


def test_scores_are_those_of_the_reward_model_on_the_same_texts(reward_run, session):
    run, rendered, questions = load_run(reward_run), [], []
    for k in range(9):
        prompt, answer = str(k) * (1 + k % 2), "abcxyz"[k % 4 : k % 4 + 1 + k % 3]
        row = Preference(prompt=prompt, answers=(answer,), label=True, name=":0", where="here")
        (one,) = renderer_of(run).answers(row)
        rendered.append(one)
        questions.append(Question(prompt, answer, {}, f"row {k}", one.ids.tolist(), one.prompt))
    judge = RewardRun(RewardOf(run=str(reward_run)), session)
    found = judge(questions)  # nine, in batches of eight
    np.testing.assert_allclose(found, answer_numbers(run, rendered, lambda done: None, scores=True), rtol=1e-5)
    assert len(set(found)) == 9
    cut = questions[0]._replace(ids=questions[0].ids[:-1])  # an answer that a limit cut off
    assert judge([cut])[0] != found[0]


def test_a_score_that_is_not_finite_names_the_row(reward_run, session):
    judge = RewardRun(RewardOf(run=str(reward_run)), session)
    judge._params = jax.tree.map(lambda x: x * np.nan, judge._params)
    with pytest.raises(UserError, match=r"gives row 7 the score nan, answer 'abc'; the reward model has diverged"):
        judge([Question("01", "abc", {}, "row 7", [1, 2, 3], 1)])
    judge.close()


def test_runs_that_cannot_judge_are_refused(reward_run, session, dpo_run, tmp_path):
    def refused(match, run=reward_run, **changes):
        with pytest.raises(UserError, match=match):
            RewardRun(RewardOf(run=str(run)), dataclasses.replace(session, **changes))

    refused("is a run of DPO, and no reward model; train one with objective=RewardModel", run=dpo_run)
    longer = dataclasses.replace(session.experiment.data, sequence_length=32)
    experiment = dataclasses.replace(session.experiment, data=longer)
    refused("context_length=32 is shorter than the 33 tokens .*set data.sequence_length to 31", experiment=experiment)

    other = SimpleNamespace(vocab_size=7, fingerprint=lambda: "other")
    dataset = SimpleNamespace(folder=tmp_path, tokenizer=other)
    refused(r"has another tokenizer \(257 tokens\) than the prompts \(7 tokens\)", dataset=dataset)
    save_template(tmp_path, ChatTemplate("{{ messages }}", where="a template"), ())
    save_template(reward_run / "data", ChatTemplate("{{ begin }}", where="another template"), ())
    dataset.tokenizer = session.dataset.tokenizer
    refused("learned from another template, and the prompts have a template: other words", dataset=dataset)
