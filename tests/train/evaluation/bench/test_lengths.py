"""Length extrapolation: the lengths, the context of a model, and the documents that all lengths share."""

import dataclasses

import pytest

from model.errors import UserError
from model.positions.absolute import Learned
from train.evaluation.bench.lengths import (
    evaluate_lengths,
    long_enough,
    parse_lengths,
    trained_length,
    with_context,
)
from train.evaluation.documents import from_text
from train.evaluation.evaluate import evaluate
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def test_lengths_are_tokens_or_multiples():
    assert parse_lengths(["8x", "0.5x", " 1x", "100", "16"], 16) == [8, 16, 100, 128]
    for text, message in [
        ("long", "'long' is no length"),
        ("1.5", "'1.5' is no length"),
        ("-4", "'-4' is no length"),
        ("0.1x", "0.1x is 1 of the 16 trained tokens"),
        ("0", "0 is 0 of"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_lengths(["1x", text], 16)


def test_the_trained_length_is_that_of_the_training_sequences(run):
    assert trained_length(run) == 16
    assert trained_length(dataclasses.replace(run, step=0)) == 32  # published weights: their context


def test_a_longer_window_than_the_context_needs_no_parameters_except_learned_positions(run):
    assert with_context(run, 32) is run
    assert with_context(run, 64).experiment.model.context_length == 64
    model = dataclasses.replace(run.experiment.model, position=Learned())
    learned = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, model=model))
    with pytest.raises(UserError, match="learned a table of 32 positions, so a window of 33 tokens is too long"):
        with_context(learned, 33)


def test_all_lengths_measure_the_documents_that_fill_the_longest_window(run):
    texts = [from_text(run.tokenizer, f"{n}", "the old cat sees a dog. " * n) for n in (1, 3, 4)]
    measure = lambda model, documents, window: evaluate(model, documents, window=window)  # noqa: E731
    found = evaluate_lengths(run, lambda: texts, [8, 64], measure)
    assert [(each.length, each.ratio) for each in found] == [(8, 0.5), (64, 4.0)]
    assert [each.result.tally.count("tokens") for each in found] == [168, 168]
    assert [each.result.stride for each in found] == [4, 32]
    alone = evaluate(run, texts[1:], window=8)
    assert found[0].result.measures["loss"] == alone.measures["loss"]
    assert found[1].result.measures["loss"] != alone.measures["loss"]
    assert found[1].as_json()["length"] == 64


def test_text_that_is_shorter_than_the_windows_is_refused(run):
    documents = [from_text(run.tokenizer, "a", "x" * 9)]
    with pytest.raises(UserError, match="no document fills a window of 11 tokens: the longest has 10; give longer"):
        list(long_enough(documents, 11, begins=True))
    assert len(list(long_enough(documents, 10, begins=True))) == 1
