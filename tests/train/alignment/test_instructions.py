import collections
import dataclasses
import json

import pytest

from model.errors import UserError
from model.options.tree import check
from train.alignment.answers import judge
from train.alignment.instructions import (
    TASKS,
    Counts,
    Instructions,
    preference_row,
    split_of,
    text_row,
    write_all,
)

GRAMMAR = Instructions()


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("copy dbca", "dbca"),
        ("reverse dbca", "acbd"),
        ("sort dbcab", "abbcd"),
        ("add 7 15", "22"),
        ("add 0 0", "0"),
        ("reverse abcdefgh", "hgfedcba"),
    ],
)
def test_answers(prompt, answer):
    assert GRAMMAR.answer(prompt) == answer
    assert GRAMMAR.check(prompt, answer) == (True, True)
    assert GRAMMAR.check(prompt, f"It is {answer}.") == (False, True)
    assert GRAMMAR.check(prompt, f"{answer}x") == (False, False)


@pytest.mark.parametrize(
    "prompt", ["", "copy", "copy ", "copy xyz", "shout abc", "add 1", "add 1 2 3", "add a b", "sort A"]
)
def test_no_instruction(prompt):
    with pytest.raises(UserError, match="is no instruction of this grammar; expected one of copy, reverse"):
        GRAMMAR.answer(prompt)


def test_a_task_that_the_grammar_lacks_is_no_instruction():
    with pytest.raises(UserError, match="expected one of sort"):
        Instructions(tasks=("sort",)).answer("copy abc")


def test_examples_are_a_pure_function_and_splits_are_apart():
    first = [GRAMMAR.example(n) for n in range(300)]
    assert first[7] == Instructions().example(7)
    assert first != [Instructions(seed=1).example(n) for n in range(300)]
    tests = [GRAMMAR.example(n, "test") for n in range(300)]
    assert not {e.prompt for e in first} & {e.prompt for e in tests}
    assert {split_of(e.prompt) for e in tests} == {"test"}
    assert all(GRAMMAR.answer(e.prompt) == e.answer for e in first + tests)
    counts = collections.Counter(e.prompt.split()[0] for e in first)
    assert set(counts) == set(TASKS)
    assert min(counts.values()) > 50
    assert max(len(e.answer) for e in first) == 5
    assert min(len(e.answer) for e in first) == 1


def test_every_field_is_live():
    def prompts(grammar):
        return {grammar.example(n).prompt for n in range(200)}

    for change in ({"seed": 1}, {"tasks": ("sort",)}, {"length": 8}, {"largest": 99}):
        assert prompts(dataclasses.replace(GRAMMAR, **change)) != prompts(GRAMMAR)
    assert max(len(p.split()[1]) for p in prompts(Instructions(tasks=("copy",), length=8))) == 8
    assert max(int(p.split()[1]) for p in prompts(Instructions(tasks=("add",), largest=9))) == 9


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (Instructions(seed=-1), "seed: must be 0 or more"),
        (Instructions(tasks=()), "tasks: must be different ones"),
        (Instructions(tasks=("copy", "copy")), "tasks: must be different ones"),
        (Instructions(length=9), "length: must be from 3 to 8"),
        (Instructions(largest=2), "largest: must be from 9"),
        (Counts(texts=0), "texts: must be at least 1"),
        (Counts(text_noise=2.0), "text_noise: must be a share"),
    ],
)
def test_refused(option, words):
    with pytest.raises(UserError, match=words):
        check(option)


def test_wrong_answers_are_wrong():
    for n in range(300):
        example = GRAMMAR.example(n)
        wrong = GRAMMAR.wrong_answer(n)
        assert wrong
        assert not judge(wrong, example.answer).lenient
        assert wrong == GRAMMAR.wrong_answer(n)
    assert len({GRAMMAR.wrong_answer(n) for n in range(300)}) > 150


def test_noise_is_the_stated_share():
    """A share p of n has a standard deviation of sqrt(p (1 - p) / n): 0.015 here."""

    def right(row):
        (prompt,), (chosen,), (rejected,) = row["prompt"], row["chosen"], row["rejected"]
        verdicts = [GRAMMAR.check(prompt["content"], one["content"]).strict for one in (chosen, rejected)]
        assert sorted(verdicts) == [False, True]
        return verdicts[0]

    assert all(right(preference_row(GRAMMAR, n, "train")) for n in range(100))
    share = sum(not right(preference_row(GRAMMAR, n, "train", noise=0.2)) for n in range(700)) / 700
    assert abs(share - 0.2) < 0.06
    lines = "".join(text_row(GRAMMAR, n, "train", noise=0.3)["text"] for n in range(90)).splitlines()
    wrong = [not GRAMMAR.check(*line.split(" = ")).strict for line in lines]
    assert len(lines) == 720
    assert abs(sum(wrong) / 720 - 0.3) < 0.07


def test_files(tmp_path):
    counts = Counts(texts=3, conversations=4, preferences=5, prompts=6, tests=2)
    paths = write_all(GRAMMAR, tmp_path / "new", counts)
    rows = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}
    assert {name: len(found) for name, found in rows.items()} == {
        "texts.train.jsonl": 3,
        "conversations.train.jsonl": 4,
        "preferences.train.jsonl": 5,
        "prompts.train.jsonl": 6,
        "texts.test.jsonl": 2,
        "conversations.test.jsonl": 2,
        "preferences.test.jsonl": 2,
        "prompts.test.jsonl": 2,
    }
    asked, answered = rows["conversations.train.jsonl"][1]["messages"]
    assert (asked["role"], answered["role"]) == ("user", "assistant")
    assert GRAMMAR.check(asked["content"], answered["content"]).strict
    row = rows["prompts.test.jsonl"][0]
    assert split_of(row["prompt"][0]["content"]) == "test"
    assert row["answer"] == GRAMMAR.answer(row["prompt"][0]["content"])
