"""The option of preferences: its checks, and what it takes from the run that training starts from."""

import pytest

from model.errors import UserError
from model.options.tree import check
from train.data.config import Bytes, TokenizerOf
from train.data.conversations.option import PlainTemplate, TemplateOf
from train.data.preferences.option import HeldOutPrompts, NoTemplate, Preferences, SeparatePreferences
from train.objectives.preference import DPO, KTO, SimPO


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "data.batch_size: expected at least 1, got 0"),
        ({"sequence_length": 1}, "data.sequence_length: expected at least 2"),
        ({"batch_size": 1 << 14, "sequence_length": 1 << 14}, "data.batch_size: one batch has more than"),
        ({"prefetch": 5000}, "data.prefetch: expected at most 1,000"),
        ({"path": ""}, "data.path: expected the path of a .jsonl file"),
        ({"validation": HeldOutPrompts(fraction=1.0)}, "data.validation.fraction: expected a share between 0 and 1"),
    ],
)
def test_bad_options(changes, words):
    with pytest.raises(UserError, match=words):
        check(Preferences(**{"path": "x.jsonl", **changes}), "data")


def test_missing_validation_rows_are_told_before_anything_is_made(option, tmp_path):
    with pytest.raises(UserError, match=r"no such text: .*none\.jsonl"):
        option(validation=SeparatePreferences(path=str(tmp_path / "none.jsonl"))).require_validation()


def test_tokenizer_and_template_are_those_of_the_run(option, prepared, tmp_path):
    trained = prepared(option(template=PlainTemplate(), sequence_length=64))
    (run := tmp_path / "run").mkdir()
    trained.folder.rename(run / "data")
    found = option(tokenizer=None, template=None).starting_from(str(run))
    assert found.tokenizer == TokenizerOf(path=str(run / "data"))
    assert found.template == TemplateOf(run=str(run))
    given = option(tokenizer=Bytes(), template=NoTemplate())
    assert given.starting_from(str(run)) == given
    assert option(template=None).starting_from(None).template == PlainTemplate()
    assert given.shared_settings()["form"] == "pairs"
    assert option(template=None).shared_settings() is None


def test_objectives_read_their_form(tiny_experiment, option):
    tiny = {"samples__prompts": (), "data__sequence_length": 9}
    tiny_experiment(data=option(), objective=DPO(), **tiny)
    for data, objective in ((option(), KTO()), (option(form="labels"), SimPO())):
        with pytest.raises(UserError, match=rf"objective: {type(objective).__name__} reads .*, and Preferences\(form="):
            tiny_experiment(data=data, objective=objective, **tiny)
    with pytest.raises(UserError, match="objective: NextToken reads 'tokens', and Preferences"):
        tiny_experiment(data=option(), **tiny)
    labels = {"data": option(form="labels", batch_size=4), "objective": KTO()}
    with pytest.raises(UserError, match="training.gradient_accumulation: KTO takes a mean over a batch; set it to 1"):
        tiny_experiment(training__gradient_accumulation=2, **labels, **tiny)
    with pytest.raises(UserError, match="data.sequence_length: 9 is longer than model.context_length=8"):
        tiny_experiment(data=option(), objective=DPO(), model__context_length=8, samples__length=4, **tiny)


def test_a_batch_is_shown_with_the_place_of_each_answer(option, prepared):
    shown = option().shown(prepared(option()), 1, [0], 20)
    assert shown.count("pairs.jsonl:") == 2
    assert "bc" in shown
