"""The numbers of lessons: of runs and of instruments, and errors where they are missing."""

import json
import shutil

import pytest

from model.errors import UserError
from train.course.numbers import Final, Found, Less


@pytest.fixture
def here(tmp_path):
    lines = {
        "one": [{"kind": "eval", "step": 1, "loss": 3.0}, {"kind": "eval", "step": 2, "loss": 2.0}],
        "two": [{"kind": "eval", "step": 2, "loss": 4.0}, {"kind": "eval", "step": 2, "name": "twice", "loss": 5.0}],
    }
    for name, each in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in each))
    heads = [{"score": 0.25, "label": "x"}, {"score": 0.75}]
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "result.json").write_text(json.dumps({"heads": heads, "rise": {"a": {"0": [1, 2.5]}}}))
    return tmp_path


def test_the_last_value_of_a_run_or_the_mean_of_several(here):
    assert Final("one").read(here) == 2.0
    assert Final("t*", "twice/loss").read(here) == 5.0
    assert Final("[ot]*").read(here) == 3.0
    assert Less(Final("two"), Final("one")).read(here) == 2.0


def test_a_finished_run_has_one(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert 0 < Final("run", "bits_per_byte").read(tmp_path) < 8


def test_a_number_of_an_instrument(here):
    assert Found("look", "heads/0/score").read(here) == 0.25
    assert Found("look", "heads/-1/score").read(here) == 0.75
    assert Found("look", "heads/*/score").read(here) == 0.75
    assert Found("look", "heads/*/score", "min").read(here) == 0.25
    assert Found("look", "rise/a/*/*").read(here) == 2.5


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Final("three"), "no such run"),
        (Final("one", "accuracy"), "no evaluation with a number 'accuracy'"),
        (Final("one", "twice/loss"), "no evaluation with a number 'twice/loss'"),
        (Found("look", "heads/7/score"), "no number at 'heads/7/score'"),
        (Found("look", "heads/0/label"), "no number at"),
        (Found("nowhere", "a"), "does not exist"),
    ],
)
def test_a_missing_number_is_an_error(here, source, words):
    with pytest.raises(UserError, match=words):
        source.read(here)
