"""The file of generated texts: continued where it was left, mended, refused where it belongs to something else."""

import json

import pytest

from model.errors import UserError
from train.generation.continuations import Continuation
from train.generation.results_file import ResultsFile, numbered, output_path

LINES = numbered(["a", "b\n漢"], 2)
SETTINGS = {"seed": 0}


def fill(path, count, settings=SETTINGS, lines=LINES):
    with ResultsFile(path, lines, settings) as file:
        done = file.done
        for index in range(done, done + count):
            file.append(index, Continuation(f"text {index}", index, "max_tokens", 0.0))
        return done


def test_lines(tmp_path):
    path = tmp_path / "out.jsonl"
    assert fill(path, 4) == 0
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["prompt"], line["sample"]) for line in found] == [("a", 0), ("a", 1), ("b\n漢", 0), ("b\n漢", 1)]
    assert [(line["text"], line["tokens"], line["ended_by"]) for line in found] == [
        (f"text {k}", k, "max_tokens") for k in range(4)
    ]


def test_a_killed_command_continues_to_the_same_bytes(tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    fill(whole, 4)
    fill(part, 2)
    with part.open("ab") as file:
        file.write(whole.read_bytes().splitlines()[2][:30])  # half of a line
    assert fill(part, 2) == 2
    assert part.read_bytes() == whole.read_bytes()
    assert fill(part, 0) == 4


def test_more_prompts_continue_too(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path, 4)
    assert fill(path, 2, lines=[*LINES, ("c", 0), ("c", 1)]) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"seed": 1}}, "line 1: was drawn with other flags or weights; give another --output"),
        ({"lines": numbered(["a", "c"], 2)}, "line 3: is not the text of its prompt"),
        ({"lines": LINES[:3]}, "has more lines than there are texts to draw"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path, change, words):
    path = tmp_path / "out.jsonl"
    fill(path, 4)
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        fill(path, 0, **change)
    assert path.read_bytes() == before


def test_files_that_cannot_be(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("no json\n")
    with pytest.raises(UserError, match="line 1: is not the text of its prompt"):
        fill(path, 1)
    with pytest.raises(UserError, match=r"give a name that ends in \.jsonl"):
        output_path(str(tmp_path / "out.txt"))
    with pytest.raises(UserError, match="a file of texts that is written must be on a disk of this machine"):
        output_path("gs://bucket/out.jsonl")
    with pytest.raises(UserError, match="cannot write"):
        fill(tmp_path / "no" / "out.jsonl", 1)
