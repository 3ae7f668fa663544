"""Objectives, models and data that do not fit together."""

import dataclasses

import pytest

from model.vocabulary.score_head import ScoreHead
from train.objectives.fit import problems_of_objective
from train.objectives.next_token import NextToken
from train.objectives.ppo import PPO
from train.objectives.preference import DPO, KTO
from train.objectives.reward import RewardModel


def test_problems_name_the_field(tiny_experiment, random_pairs):
    model, text, pairs = tiny_experiment().model, tiny_experiment().data, random_pairs.data
    labels = dataclasses.replace(pairs, form="labels")
    scored = dataclasses.replace(model, score_head=ScoreHead())
    for objective, with_model, data, parts, expected in (
        (NextToken(), model, text, 2, []),
        (DPO(), model, pairs, 2, []),
        (KTO(), model, labels, 1, []),
        (RewardModel(), scored, pairs, 1, []),
        (DPO(), model, text, 1, ["objective"]),
        (NextToken(), model, pairs, 1, ["objective"]),
        (DPO(), scored, pairs, 1, ["model.score_head"]),
        (RewardModel(), model, pairs, 1, ["model.score_head"]),
        (PPO(), scored, text, 2, []),
        (PPO(), model, text, 1, ["model.score_head"]),
        (KTO(), model, labels, 2, ["training.gradient_accumulation"]),
        (KTO(), model, pairs, 1, ["objective"]),
    ):
        found = problems_of_objective(objective, with_model, data, parts)
        assert [path for path, _ in found] == expected, objective
    (_, message), *_ = problems_of_objective(KTO(), model, pairs, 1)
    assert message.startswith("KTO reads 'tokens', and Preferences(form='pairs') has chosen_tokens")


def test_texts_and_stages_beside_preferences_are_refused(tiny_experiment, random_pairs):
    from model.errors import UserError
    from train.evaluation.named_evaluations import NamedEvaluation

    changes = {"data": random_pairs.data, "objective": DPO(), "samples__prompts": ()}
    with pytest.raises(UserError, match="evaluations.0: a text is not measured beside preferences"):
        tiny_experiment(evaluations=(NamedEvaluation(name="book", path="book.txt"),), **changes)
    with pytest.raises(UserError, match="mesh.stage: the two texts of a row do not run in stages"):
        tiny_experiment(mesh__stage=2, training__gradient_accumulation=2, **changes)


def test_smoothed_labels_need_linear_logits(tiny_experiment):
    capped = dataclasses.replace(tiny_experiment().model, final_logit_softcap=5.0)
    found = problems_of_objective(NextToken(label_smoothing=0.1), capped, tiny_experiment().data, 1)
    assert [path for path, _ in found] == ["objective.label_smoothing"]
