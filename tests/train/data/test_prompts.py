"""Prompts: their order is a pure function, both forms are read, faults are named with their rows."""

import dataclasses
import json

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.data.config import Bytes
from train.data.conversations.found_template import plain_template, template_of_dataset
from train.data.prompts import Prompts, read_prompts
from train.data.shards.dataset import open_dataset

ROWS = [{"prompt": f"say {letter}", "answer": letter * 2} for letter in "abcdefghijkl"]


def write(folder, rows):
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Prompts(
        path=str(folder / "prompts.jsonl"),
        tokenizer=Bytes(),
        group=2,
        batch_size=8,
        sequence_length=12,
        held_out=0.3,
    ).starting_from(None)


@pytest.fixture
def made(tmp_path):
    data = write(tmp_path, ROWS)
    return data, open_dataset(data.prepare(tmp_path / "data"))


def test_each_epoch_has_every_prompt_once_and_each_prompt_its_group(made):
    data, dataset = made
    train, held_out = read_prompts(dataset, "train"), read_prompts(dataset, "validation")
    assert sorted(one.text for one in train + held_out) == sorted(row["prompt"] for row in ROWS)
    batches = data.training_batches(dataset, ("tokens",))
    order = [one.text for n in range(len(train)) for one in batches.prompts(n)]
    assert all(
        sorted(order[i : i + len(train)]) == sorted(p.text for p in train) for i in range(0, len(order), len(train))
    )
    assert order[: len(train)] != order[len(train) : 2 * len(train)]
    (tokens,) = batches.rows(3).values()
    assert (tokens[::2] == tokens[1::2]).all()
    assert [dataset.tokenizer.decode(row[row > 0][1:]) for row in tokens[::2]] == [p.text for p in batches.prompts(3)]
    np.testing.assert_array_equal(batches.rows(3, [5])["tokens"], tokens[5:6])
    np.testing.assert_array_equal(next(batches.iterator(3))["tokens"], tokens)
    assert [span.name for span in batches.documents(3)][::2] == [p.where for p in batches.prompts(3)]
    assert data.shown(dataset, 4, None, 3).count("'say'") == 4


def test_the_loss_is_that_of_the_right_answers(made):
    data, dataset = made
    held_out = read_prompts(dataset, "validation")
    evaluation = data.evaluation_batches(dataset, "validation", None, range(8))
    (batch,) = evaluation
    assert evaluation.coverage.tokens == batch["weights"].sum() == 2 * len(held_out)
    counted = batch["targets"][batch["weights"] > 0].reshape(-1, 2)
    assert [dataset.tokenizer.decode(row) for row in counted] == [one.fields["answer"] for one in held_out]


def test_messages_are_written_by_the_template(tmp_path):
    rows = [row | {"prompt": [{"role": "user", "content": row["prompt"][4:]}]} for row in ROWS]
    data = write(tmp_path, rows)
    dataset = open_dataset(Prompts(**(vars(data) | {"sequence_length": 40})).prepare(tmp_path / "data"))
    one = read_prompts(dataset, "train")[0]
    assert dataset.tokenizer.decode(one.ids) == f"user:\n{one.text}\nassistant:\n"
    found = template_of_dataset(dataset.folder)  # with which commands ask the run that answers these prompts
    assert found.template.source == plain_template(dataset.tokenizer).source


@pytest.mark.parametrize("held_out", [1e-6, 1 - 1e-6])
def test_at_least_one_prompt_is_held_out_and_one_is_left(held_out, tmp_path):
    data = dataclasses.replace(write(tmp_path, [*ROWS, *ROWS]), held_out=held_out)
    dataset = open_dataset(data.prepare(tmp_path / "data"))
    counts = [len(read_prompts(dataset, split)) for split in ("train", "validation")]
    assert sorted(counts) == [2, 22]  # a prompt and its double are in one split
    assert counts[0] == (22 if held_out < 0.5 else 2)


def test_a_single_prompt_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has 2 rows with 1 different prompts; expected at least 2.*give more rows"):
        write(tmp_path, ROWS[:1] * 2).prepare(tmp_path / "data")


def test_a_folder_that_was_made_with_other_settings_or_another_file_is_refused(made, tmp_path):
    data, dataset = made
    before = read_prompts(dataset, "train")
    assert dataclasses.replace(data, group=4, seed=3).prepare(tmp_path / "data") == dataset.folder
    assert data.shared_settings().keys() == {"path", "tokenizer", "template", "held_out", "sequence_length"}
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[1:]))
    for changed, said in (
        ({"held_out": 0.4}, "held_out: 0.3 -> 0.4"),
        ({"path": str(tmp_path / "other.jsonl")}, r"the text: .*prompts.jsonl -> .*other.jsonl"),
        ({"sequence_length": 13}, "sequence_length: 12 -> 13"),
    ):
        with pytest.raises(UserError, match=f"(?s)was made with other settings, or from other text:.*{said}"):
            dataclasses.replace(data, **changed).prepare(tmp_path / "data")
    (tmp_path / "prompts.jsonl").unlink()  # the folder has all of it
    data.prepare(tmp_path / "data")
    assert read_prompts(dataset, "train") == before


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a"}, "line 13: has no field prompt"),
        ({"prompt": "a" * 12}, r"line 13: the prompt has 13 tokens; expected 1 to data.sequence_length=12"),
        ({"prompt": []}, "line 13: prompt: expected a list of messages, got an empty list"),
    ],
)
def test_faults_are_named_with_their_row(row, said, tmp_path):
    with pytest.raises(UserError, match=said):
        write(tmp_path, [*ROWS, row]).prepare(tmp_path / "data")


def test_groups_that_are_not_whole_are_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size: 6 rollouts are no whole groups of 4"):
        check(Prompts(path="x", group=4, batch_size=6), "data")
    damaged = write(tmp_path, ROWS)
    dataset = open_dataset(damaged.prepare(tmp_path / "data"))
    (tmp_path / "data" / "prompts.train.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"prompts.train.jsonl is missing or damaged"):
        read_prompts(dataset, "train")
