"""Training on a task: batches from numbers, no text; probes among the evaluations of a run."""

import dataclasses

import pytest

from model.errors import UserError
from tests.train.evaluation.probing.conftest import TASK
from train.data.generated import Generated
from train.evaluation.bench.request import Request, evaluate_request
from train.evaluation.named_evaluations import ProbeEvaluation
from train.evaluation.probes.induction import Induction
from train.experiment import check_same_experiment
from train.loop import train
from train.report import summary
from train.run.loading import load_run
from train.run.metrics import read_metrics


def test_a_continued_run_is_the_same_to_the_byte(on_chains, chains_run, tmp_path):
    train(on_chains, tmp_path / "whole", say=lambda line: None)
    folder, _ = chains_run
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert (folder / "samples.txt").read_bytes() == (tmp_path / "whole" / "samples.txt").read_bytes()


def test_lines_of_the_probe_hold_numbers_and_baselines(chains_run):
    folder, said = chains_run
    lines = [line for line in read_metrics(folder) if line["kind"] == "eval"]
    probe = {line["step"]: line for line in lines if line.get("name") == "chains"}
    assert list(probe) == [4, 6]
    assert {"loss", "accuracy", "loss_above_bayes", "baseline_bigram", "baseline_unigram"} <= probe[6].keys()
    assert probe[4]["baseline_bigram"] == probe[6]["baseline_bigram"] < 1.0
    assert probe[6]["loss_above_bayes"] == pytest.approx(probe[6]["loss"] - probe[6]["baseline_bigram"])
    validation = [line for line in lines if "name" not in line]
    assert [line["step"] for line in validation] == [3, 6]
    assert "bits_per_byte" not in validation[0]  # no token stands for bytes
    assert any(line.startswith("step 6: chains loss ") and "(bigram 0." in line for line in said)
    assert "loss of chains" in summary(folder)


def test_the_run_is_read_like_any_other(chains_run, on_chains):
    folder, _ = chains_run
    run = load_run(folder)
    assert run.experiment.data == on_chains.data
    assert run.tokenizer.encode("2 0").tolist() == [2, 0]


def test_other_sequences_are_another_experiment(chains_run, on_chains):
    folder, _ = chains_run
    for data in (
        dataclasses.replace(on_chains.data, seed=1),
        Generated(task=dataclasses.replace(TASK, concentration=2.0), batch_size=8, validation_batches=2),
    ):
        with pytest.raises(UserError, match="data"):
            check_same_experiment(dataclasses.replace(on_chains, data=data), folder)
    other = ProbeEvaluation(name="chains", probe=TASK, every=4, num_sequences=17)
    with pytest.raises(
        UserError, match=r"evaluations \(chains\): num_sequences: 16 -> 17; a new name makes it a new one"
    ):
        check_same_experiment(dataclasses.replace(on_chains, evaluations=(other,)), folder)
    later = dataclasses.replace(on_chains.evaluations[0], every=5)
    check_same_experiment(dataclasses.replace(on_chains, evaluations=(later,)), folder)


def test_a_probe_that_does_not_fit_the_model_is_refused_before_training(on_chains, tmp_path):
    large = ProbeEvaluation(name="copies", probe=Induction(length=127))
    experiment = dataclasses.replace(on_chains, evaluations=(large,))
    with pytest.raises(UserError, match=r"evaluations \(copies\): Induction needs a vocabulary of 64"):
        train(experiment, tmp_path / "run", say=lambda line: None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "../x"}, "evaluations.0.name: expected letters"),
        ({"name": "validation"}, "evaluations.0.name: 'validation' is the split"),
        ({"name": "a", "every": 0}, "evaluations.0.every: must be at least 1"),
        ({"name": "a", "num_sequences": 0}, "evaluations.0.num_sequences: must be at least 1"),
    ],
)
def test_refused(fields, words, tiny_experiment):
    with pytest.raises(UserError, match=words):
        tiny_experiment(evaluations=(ProbeEvaluation(probe=TASK, **fields),))


def test_perplexity_without_a_text_is_refused(chains_run):
    with pytest.raises(
        UserError, match="makes the sequences, so that it has no text; give --text, or measure it with --probes"
    ):
        evaluate_request(Request(model=str(chains_run[0])))
