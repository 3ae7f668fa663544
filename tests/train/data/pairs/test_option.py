"""The option of pairs: its checks, the model that it needs, and what it takes from the run that training starts from."""

import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.options.tree import check
from train.data.config import Bytes, TokenizerOf
from train.data.pairs.option import Pairs
from train.data.preferences.option import SeparatePreferences


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "data.batch_size: expected at least 1, got 0"),
        ({"source_length": 0}, "data.source_length: expected at least 1"),
        ({"path": ""}, "data.path: expected the path of a .jsonl file"),
    ],
)
def test_bad_options(changes, words):
    with pytest.raises(UserError, match=words):
        check(Pairs(**{"path": "x.jsonl", **changes}), "data")


def test_missing_validation_rows_are_told_before_anything_is_made(option, tmp_path):
    with pytest.raises(UserError, match=r"no such text: .*none\.jsonl"):
        option(validation=SeparatePreferences(path=str(tmp_path / "none.jsonl"))).require_validation()


def test_the_tokenizer_is_that_of_the_run(option, prepared, tmp_path):
    trained = prepared(option())
    (run := tmp_path / "run").mkdir()
    trained.folder.rename(run / "data")
    assert option(tokenizer=None).starting_from(str(run)).tokenizer == TokenizerOf(path=str(run / "data"))
    assert option(tokenizer=Bytes()).starting_from(str(run)) == option(tokenizer=Bytes())
    assert option().starting_from(None) == option()
    assert option().shared_settings()["source_length"] == 6


def test_pairs_and_an_encoder_need_each_other(option, tiny_experiment):
    encoder = Encoder(
        num_layers=1,
        context_length=6,
        mixer=GroupedQuery(num_heads=2),
        ffn=MLP(width=8),
        cross=CrossAttention(num_heads=2),
    )
    tiny = {"samples__prompts": ()}
    tiny_experiment(data=option(), model__encoder=encoder, **tiny)
    with pytest.raises(UserError, match="model.encoder: None, and Pairs has sources that nothing would read"):
        tiny_experiment(data=option(), **tiny)
    with pytest.raises(UserError, match="data: Data has no sources for the model's encoder; use Pairs"):
        tiny_experiment(model__encoder=encoder, **tiny)
    with pytest.raises(UserError, match="data.source_length: 9 is longer than model.encoder.context_length=6"):
        tiny_experiment(data=option(source_length=9), model__encoder=encoder, **tiny)
