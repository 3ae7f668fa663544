"""The option of text with hidden spans: every field is live, and what is refused by name."""

import dataclasses

import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.options.field_marks import marked_fields
from model.options.json import from_json, to_json
from model.options.tree import check
from train.data.config import Characters, Tail
from train.data.shards.dataset import open_dataset
from train.data.span_corruption.batches import SpanBatches
from train.data.span_corruption.option import SpanCorruption
from train.experiment import Experiment
from train.run.checks import check_vocabulary

CHANGES = {
    "noise_density": 0.3,
    "mean_span_length": 1.0,
    "first_sentinel": 256,
    "final": "end",
    "source_length": 33,
    "batch_size": 5,
    "seed": 1,
}
OF_THE_TEXT = {"path": "other", "tokenizer": Characters(), "validation": Tail()}


def test_every_field_has_a_case():
    fields = {field.name for field in dataclasses.fields(SpanCorruption)}
    assert fields - {"prefetch"} == CHANGES.keys() | OF_THE_TEXT.keys()
    assert list(marked_fields(SpanCorruption(), "execution")) == ["prefetch"]


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_live(field, option, dataset):
    changed = dataclasses.replace(option, **{field: CHANGES[field]})
    check(changed)
    before, after = (SpanBatches(dataset, data).rows(1) for data in (option, changed))
    assert any(before[name].shape != after[name].shape or (before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("field", OF_THE_TEXT)
def test_what_prepares_the_text(field, option):
    changed = dataclasses.replace(option, **{field: OF_THE_TEXT[field]})
    assert changed.shared_settings()[field] != option.shared_settings()[field]
    assert getattr(changed.as_data(), field) == OF_THE_TEXT[field]


def test_the_text_is_prepared_as_that_of_data(option, data, dataset, tmp_path):
    made = open_dataset(option.prepare(tmp_path / "data"))
    assert made.count("train", "tokens") == dataset.count("train", "tokens")
    assert option.shared_settings() == data.shared_settings()
    option.require_validation()
    with pytest.raises(UserError, match="data.validation: the validation loss needs text that is held out"):
        dataclasses.replace(option, validation=None).require_validation()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "data.batch_size: expected at least 1, got 0"),
        ({"source_length": 3}, "data.source_length: expected at least 4, got 3"),
        ({"source_length": 2**31}, "data.batch_size: one batch has more than"),
        ({"path": ""}, "data.path: expected a path or at least one Source, got nothing"),
        ({"noise_density": 0.0}, r"data.noise_density: must be above 0 and at most 0.9, got 0.0"),
        ({"noise_density": 0.95}, r"data.noise_density: must be above 0 and at most 0.9, got 0.95"),
        ({"mean_span_length": 0.5}, "data.mean_span_length: must be at least 1, got 0.5"),
        ({"first_sentinel": 5}, "data.first_sentinel: 5 has no room for 15 sentinels, .*; give at least 14, or None"),
        ({"final": "mark"}, "data.final: expected .*'sentinel'.*'end'.*, got 'mark'"),
    ],
)
def test_bad_options(changes, words):
    with pytest.raises(UserError, match=words):
        check(SpanCorruption(**changes), "data")


def test_it_fits_a_model_with_an_encoder(option, tiny_experiment):
    encoder = Encoder(
        num_layers=1,
        context_length=32,
        mixer=GroupedQuery(num_heads=2),
        ffn=MLP(width=8),
        cross=CrossAttention(num_heads=2),
    )
    assert (option.text_length, option.sequence_length, option.own_ids) == (35, 8, 3)
    tiny = {"samples__prompts": (), "data": option, "model__vocab_size": 260, "model__encoder": encoder}
    experiment = tiny_experiment(**tiny)
    assert from_json(Experiment, to_json(experiment)) == experiment
    with pytest.raises(UserError, match="model.encoder: None, and SpanCorruption has sources that nothing would"):
        tiny_experiment(**tiny | {"model__encoder": None})
    with pytest.raises(UserError, match="data.source_length: 33 is longer than model.encoder.context_length=32"):
        tiny_experiment(**tiny, data__source_length=33)
    short = "data.sequence_length: 33 is longer than model.context_length=32; give model.context_length=33 or more"
    with pytest.raises(UserError, match=short):
        tiny_experiment(**tiny, data__noise_density=0.5, data__mean_span_length=1.0)
    with pytest.raises(UserError, match="data.first_sentinel: must be an id of model.vocab_size=260, got 260"):
        tiny_experiment(**tiny, data__first_sentinel=260)


def test_the_vocabulary_has_the_sentinels(option, dataset, tiny_experiment):
    encoder = Encoder(
        num_layers=1, context_length=32, mixer=GroupedQuery(num_heads=2), ffn=None, cross=CrossAttention(num_heads=2)
    )
    tiny = {"samples__prompts": (), "data": option, "model__encoder": encoder}
    check_vocabulary(tiny_experiment(**tiny, model__vocab_size=260), dataset.tokenizer, dataset.folder)
    words = (
        "model.vocab_size=257 of which 3 are for sentinels, but the tokenizer .* has 257 .*--set model.vocab_size=260"
    )
    with pytest.raises(UserError, match=words):
        check_vocabulary(tiny_experiment(**tiny, model__vocab_size=257), dataset.tokenizer, dataset.folder)
    assert np.max(SpanBatches(dataset, option).rows(0)["source"]) == 259
