"""The loss of the validation split of a run on masked tokens, and what a run of it can be asked."""

import json

import jax
import numpy as np
import pytest

from model.errors import UserError
from train.evaluation.evaluate import evaluate
from train.loop import train
from train.objectives.drawn import VALIDATION
from train.objectives.masked import MaskedTokens
from train.objectives.next_token import token_nll
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory):
    """A finished run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "masked"
    encoder = {"model__visibility": "Bidirectional()", "model__vocab_size": 258, "samples__prompts": ()}
    small = {"model__num_layers": 1, "model__width": 16, "model__ffn__width": 16, "training__num_steps": 4}
    train(tiny_experiment(objective=MaskedTokens(), **encoder | small), folder)
    return folder


@pytest.mark.sweep
def test_the_loss_of_the_split_is_that_of_its_batches(run):
    loaded = load_run(run)
    experiment, total, weight = loaded.experiment, 0.0, 0.0
    batches = experiment.data.evaluation_batches(loaded.dataset(), "validation", None, range(8))
    for number, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), VALIDATION), number)
        complete = experiment.objective.drawn(experiment.model, batch, key)
        options = {"dropout_key": None, "layout": loaded.layout}
        sums = experiment.objective.loss(experiment.model, loaded.params, complete, **options)[1]
        total, weight = total + float(sums.loss), weight + float(experiment.objective.weight(complete))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if line["kind"] == "eval"]
    assert last["loss"] == pytest.approx(total / weight, rel=1e-5)
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]))
    assert last["tokens"] == weight


def test_a_run_is_measured_by_its_pseudo_perplexity(run):
    loaded = load_run(run)
    result = evaluate(loaded, ["some text", "more"], window=8)
    assert (result.tally.count("tokens"), result.tally.count("bytes")) == (13, 13)
    assert result.first_token == "given all other tokens, as every token"
    assert result.measures["perplexity"].value == pytest.approx(np.exp(result.measures["loss"].value))
    with pytest.raises(UserError, match="sees a text from both sides, and its tokens are scored given all others"):
        evaluate(loaded, ["some text"], window=8, detailed=True)
    batch = {"tokens": np.zeros((1, 4), np.int32), "targets": np.zeros((1, 4), np.int32)}
    with pytest.raises(UserError, match="the loss of next tokens: this model sees a text from both sides"):
        token_nll(loaded.experiment.model, loaded.params, batch, loaded.layout)
