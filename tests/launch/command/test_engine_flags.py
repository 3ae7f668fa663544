"""The engine's flags: fields by name, a draft model, and mistakes in one line."""

import types

import pytest

from launch.command.engine_flags import EngineFlags, draft_of, engine_options, is_given
from model.errors import UserError
from model.inference.engine.options import EngineOptions
from model.inference.engine.speculation import Draft, Modules, NGram
from train.run.loading import load_run

BASE = EngineOptions(rows=2, tokens_per_step=16)


def given(*assignments, draft=None):
    flag = types.SimpleNamespace
    return EngineFlags(flag(value=list(assignments)), flag(value=draft))


def options(*assignments, draft=None):
    return engine_options(given(*assignments, draft=draft), BASE, {"rows": "batch_size"})


def test_fields_are_set_by_name():
    assert options() == BASE
    assert not is_given(given())
    assert is_given(given("engine.page_size=8"))
    assert options("engine.page_size=8", "engine.speculation=NGram(tokens=8)") == EngineOptions(
        rows=2, tokens_per_step=16, page_size=8, speculation=NGram(tokens=8)
    )
    assert options("engine.speculation=Modules(tokens=2)").speculation == Modules(tokens=2)
    assert options(draft="runs/small").speculation == Draft()
    assert options("engine.speculation=Draft(tokens=2)", draft="runs/small").speculation == Draft(tokens=2)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["engine.rows=4"], "--set engine.rows: the flag --batch_size gives it; use that"),
        (["engine.page=4"], "--set engine.page: EngineOptions has no field 'page'"),
        (["engine.page_size=0"], "--set engine.page_size: must be at least 1, got 0"),
        (["page_size=4"], "has no field 'page_size'"),
        (["engine.speculation=NGram(tokens=0)"], "--set engine.speculation.tokens: must be from 1 to 31, got 0"),
        (["engine.speculation=Draft()"], "needs --draft=RUN, the run folder of the model that guesses"),
    ],
)
def test_mistakes_are_named(assignments, message):
    with pytest.raises(UserError) as error:
        options(*assignments)
    assert message in str(error.value)


def test_a_draft_has_the_same_tokenizer(tiny_run, monkeypatch):
    run = load_run(tiny_run)
    assert draft_of(given(), run) is None
    draft = draft_of(given(draft=str(tiny_run)), run)
    assert draft.config == run.experiment.model
    other = types.SimpleNamespace(**vars(run) | {"tokenizer": types.SimpleNamespace(fingerprint=lambda: "other")})
    with pytest.raises(UserError, match="has another tokenizer than"):
        draft_of(given(draft=str(tiny_run)), other)
