import dataclasses

import pytest

from model.errors import UserError
from model.options.json import from_json, to_json
from model.options.tree import check
from train.data.config import Bytes, TokenizerOf
from train.data.conversations.found_template import save_template
from train.data.conversations.option import (
    Conversations,
    HeldOutConversations,
    PlainTemplate,
    SeparateConversations,
    TemplateFile,
    TemplateOf,
)
from train.data.conversations.template import ChatTemplate
from train.data.prepare.prepare import prepare
from train.data.ramp import Ramp
from train.experiment import Experiment
from train.objectives.next_token import NextToken

ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_an_experiment_on_conversations_goes_through_json(tiny_experiment):
    experiment = tiny_experiment(
        data=Conversations(path="rows.jsonl", template=TemplateFile(path="t.jinja"), sequence_length=16)
    )
    assert from_json(Experiment, to_json(experiment)) == experiment
    assert isinstance(experiment.objective, NextToken)
    with pytest.raises(UserError, match="data: conversations are no running text; there is no text to name"):
        _ = experiment.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": ""}, "path: expected the path of a file of conversations"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"sequence_length": 1}, "sequence_length: expected at least 2"),
        ({"batch_size": 2**30}, "batch_size: one batch has more than"),
        ({"prefetch": 2000}, "prefetch: expected at most 1,000"),
        ({"validation": HeldOutConversations(fraction=1.0)}, "validation.fraction: expected a share"),
        ({"ramp": Ramp(start=3, double_every=2)}, "ramp.start: 3 does not double"),
        ({"mask": "user"}, "mask"),
        ({"too_long": "cut"}, "too_long"),
    ],
)
def test_refused(changes, words):
    with pytest.raises(UserError, match=words):
        check(Conversations(**({"path": "rows.jsonl"} | changes)))


def test_a_missing_validation_file_is_refused_before_anything_is_made():
    data = Conversations(path="rows.jsonl", validation=SeparateConversations(path="missing.jsonl"))
    with pytest.raises(UserError, match=r"no such text: 'missing.jsonl'"):
        data.require_validation()


def test_the_tokenizer_and_the_template_of_the_run_that_training_starts_from(write_rows, tmp_path):
    path = str(write_rows(ROW))
    plain = Conversations(path=path, tokenizer=Bytes(), validation=SeparateConversations(path=path)).starting_from(None)
    assert plain.template == PlainTemplate()
    first = tmp_path / "run" / "data"
    first.parent.mkdir()
    prepare(plain, first)
    data = dataclasses.replace(plain, tokenizer=None, template=None)
    resolved = data.starting_from(str(tmp_path / "run"))
    assert resolved.tokenizer == TokenizerOf(path=str(first))
    assert resolved.template == TemplateOf(run=str(tmp_path / "run"))
    prepare(resolved, tmp_path / "second")  # by the template of the run's conversations
    assert (tmp_path / "second" / "train.tokens.npy").read_bytes() == (first / "train.tokens.npy").read_bytes()
    (first / "chat_template.json").unlink()
    assert data.starting_from(str(tmp_path / "run")).template == PlainTemplate()
    with pytest.raises(UserError, match="data.template: .* has no chat template; give TemplateFile or PlainTemplate"):
        prepare(resolved, tmp_path / "third")
    save_template(first, ChatTemplate("x"), [])
    given = dataclasses.replace(data, template=TemplateFile(path="t.jinja")).starting_from(str(tmp_path / "run"))
    assert given.template == TemplateFile(path="t.jinja", run=str(tmp_path / "run"))
    # A finished folder serves when the run that it started from is gone.
    gone = data.starting_from(str(tmp_path / "gone"))
    assert gone == data
    assert prepare(gone, tmp_path / "second") == tmp_path / "second"


def test_settings_that_runs_share():
    data = Conversations(path="rows.jsonl", tokenizer=Bytes(), template=PlainTemplate())
    assert set(data.shared_settings()) == {
        *("path", "tokenizer", "template", "mask", "too_long", "validation", "sequence_length"),
    }
    assert dataclasses.replace(data, tokenizer=None).shared_settings() is None
