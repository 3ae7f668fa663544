"""Accuracy and margin of pairs, of a policy and of a reward model, against their training's own numbers."""

import json
import math
import pathlib

import numpy as np
import pytest

from model.errors import UserError
from model.vocabulary.score_head import ScoreHead
from train.alignment.preference_accuracy import accuracy_of_margins, accuracy_of_run, measure_of, reference_of
from train.loop import train
from train.objectives.reward import RewardModel
from train.run.loading import load_run
from train.run.metrics import read_metrics


def test_a_share_and_a_mean_by_hand():
    found = accuracy_of_margins("score", [2.0, 1.0, 0.0, -1.0])
    assert found.accuracy == 2.5 / 4
    assert found.margin.mean == 0.5
    half = 3.182446 * np.std([2, 1, 0, -1], ddof=1) / 2  # Student's t of 3 degrees of freedom
    assert (found.margin.low, found.margin.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)
    z, n, p = 1.959964, 4, 2.5 / 4
    centre, width = (p + z * z / 8) / (1 + z * z / 4), z / (1 + z * z / 4) * math.sqrt(p * (1 - p) / n + z * z / 64)
    assert (found.low, found.high) == pytest.approx((centre - width, centre + width), rel=1e-5)
    sure = accuracy_of_margins("score", [1.0, 2.0, 3.0])
    assert (sure.accuracy, sure.high) == (1.0, 1.0)
    assert sure.low < 0.5  # three pairs do not show an accuracy of 1
    with pytest.raises(UserError, match="expected at least two pairs, got 1"):
        accuracy_of_margins("score", [1.0])
    with pytest.raises(UserError, match="pair 2 has the margin nan; the model has diverged"):
        accuracy_of_margins("score", [1.0, math.nan])


@pytest.fixture(scope="module")
def held_out(dpo_run, tmp_path_factory):
    """The validation rows of the run, as a file."""
    path = json.loads((dpo_run / "config.json").read_text())["data"]["path"]
    answers = np.load(dpo_run / "data" / "validation.answers.npy")
    rows = pathlib.Path(path).read_text().splitlines()
    (file := tmp_path_factory.mktemp("held_out") / "pairs.jsonl").write_text(
        "".join(rows[line - 1] + "\n" for line in answers["line"][::2])
    )
    return str(file)


def test_a_policy_has_the_numbers_of_its_validation(dpo_run, preference_experiment, held_out, tmp_path):
    """The reference of the run is its start, which a run of no step would hold: here one with rate 0."""
    start = tmp_path / "start"
    train(preference_experiment(training__num_steps=1, schedule="Constant(peak=1e-30)"), start, say=lambda line: None)
    run = load_run(dpo_run)
    assert reference_of(run) is None
    found = accuracy_of_run(run, held_out, load_run(start))
    last = [line for line in read_metrics(dpo_run) if line["kind"] == "eval"][-1]
    assert found.measure == "implicit reward"
    assert found.accuracy == pytest.approx(last["accuracy"])
    assert found.margin.mean == pytest.approx(last["margin"], rel=1e-4)
    alone = accuracy_of_run(run, held_out)
    assert alone.measure == "log-probability"
    assert alone.margin.mean == pytest.approx(last["chosen_logp"] - last["rejected_logp"], rel=1e-4)
    assert json.loads(json.dumps(alone.as_json()))["pairs"] == len(found.margins)


@pytest.mark.sweep
def test_a_reward_model_has_the_numbers_of_its_validation(dpo_run, preference_experiment, held_out, tmp_path):
    experiment = preference_experiment(objective=RewardModel(), model__score_head=ScoreHead())
    train(experiment, tmp_path / "reward", say=lambda line: None)
    run = load_run(tmp_path / "reward")
    found = accuracy_of_run(run, held_out)
    last = [line for line in read_metrics(tmp_path / "reward") if line["kind"] == "eval"][-1]
    assert found.measure == "score"
    assert found.accuracy == pytest.approx(last["accuracy"])
    assert found.margin.mean == pytest.approx(last["margin"], rel=1e-4)
    with pytest.raises(UserError, match="is a reward model, whose scores have no reference"):
        measure_of(run, load_run(dpo_run))


def test_bad_files(dpo_run, tmp_path):
    run, path = load_run(dpo_run), tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 40, "chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(
        UserError, match=r"line 1: prompt and answer have 41 \+ 2 tokens, more than .*context_length=32"
    ):
        accuracy_of_run(run, str(path))
    path.write_text(json.dumps({"prompt": "x", "completion": "a", "label": True}) + "\n")
    with pytest.raises(UserError, match="line 1: is one answer with a label; accuracy is of pairs"):
        accuracy_of_run(run, str(path))
