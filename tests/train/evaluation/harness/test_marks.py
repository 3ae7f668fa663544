import dataclasses
import json

import pytest

from model.errors import UserError
from train.data import Characters, make_tokenizer
from train.evaluation.harness.marks import Marks, marks_of
from train.run.loading import load_run


def test_a_converted_model_has_the_marks_of_its_tokenizer(models):
    adds = models["adds_begin"]
    assert adds.marks == Marks(1, True, "<s>", 2, frozenset({2}))
    assert adds.encode("the") == [1, *adds.encode("the", add_begin=False)]
    assert adds.encode("<s>the")[0] == 1
    assert adds.encode("<s>the").count(1) == 1
    none = models["adds_none"]
    # <s> still comes before a text without context, since tokenizer_config.json names it.
    assert none.marks == Marks(1, False, "<s>", 2, frozenset({2}))
    assert none.encode("the") == none.encode("the", add_begin=True) == none.encode("the", add_begin=False)


def test_all_ends_of_a_published_model_end_a_text(models):
    run = models["adds_none"]._run
    path = run.folder / "origin" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert marks_of(run).stops == {2, 9}
    path.unlink()


def test_a_model_that_was_trained_here_has_the_marks_of_its_documents(tiny_run, models):
    run = load_run(tiny_run)
    assert marks_of(run) == Marks(256, True, None, 256, frozenset({256}))
    # Trained further here: its documents began with the mark then, whatever the tokenizer's file says.
    converted = models["adds_none"]._run
    training = dataclasses.replace(converted.experiment.training, init_from="elsewhere")
    further = dataclasses.replace(converted, experiment=dataclasses.replace(converted.experiment, training=training))
    assert marks_of(further).adds_begin


def test_a_tokenizer_without_marks_is_refused(tiny_run):
    tokenizer = make_tokenizer(Characters(), ["abc"])
    with pytest.raises(
        UserError, match="scores texts after a mark that begins a document, and this run's tokenizer has"
    ):
        marks_of(dataclasses.replace(load_run(tiny_run), tokenizer=tokenizer))
