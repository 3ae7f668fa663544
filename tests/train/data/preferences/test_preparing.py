"""Preferences as a dataset folder: what is refused, left out, held out, and reused."""

import dataclasses
import re

import pytest

from model.errors import UserError
from tests.train.data.preferences.conftest import ROWS
from train.data.config import Bytes
from train.data.conversations.found_template import template_of_dataset
from train.data.conversations.option import PlainTemplate
from train.data.preferences.option import HeldOutPrompts, SeparatePreferences
from train.data.preferences.stored import StoredPreferences


def rows_of(dataset, split="train", answers=2):
    return StoredPreferences(dataset.folder, split, answers).num_rows


def test_a_folder_is_made_once_and_checked_then(option, prepared, write, tmp_path):
    data = option()
    first = prepared(data)
    assert (rows_of(first), rows_of(first, "validation")) == (4, 2)
    assert prepared(dataclasses.replace(data, batch_size=2, seed=5)).folder == first.folder
    for name, value in {
        "sequence_length": 10,
        "template": PlainTemplate(),
        "tokenizer": Bytes(end_of_document=False),
    }.items():
        with pytest.raises(UserError, match=f"(?s)was made with other settings.*{name}"):
            prepared(dataclasses.replace(data, **{name: value}))
    write(ROWS[:3])
    with pytest.raises(UserError, match=r"the text of .*pairs\.jsonl has changed"):
        prepared(data)
    (tmp_path / "pairs.jsonl").unlink()
    assert rows_of(prepared(data)) == 4  # the tokens are there: the rows may be gone


def test_rows_that_are_too_long(option, prepared, said):
    """Begin, prompt, answer and end are 1 + 1 + (1 to 4) + 1 tokens."""
    with pytest.raises(
        UserError, match=r"line 4: prompt and answer have 2 \+ 5 tokens in data.sequence_length=6; .*No answer is cut"
    ):
        prepared(option(sequence_length=6))
    assert rows_of(prepared(option(sequence_length=6, too_long="drop"), "short", said)) == 3
    (line,) = (line for line in said.lines if "of the train split" in line)
    assert re.match(r"WARNING: 1 rows of the train split have more than 6 tokens .*line 4$", line)
    with pytest.raises(UserError, match="all 4 rows of the train split have more than data.sequence_length=4"):
        prepared(option(sequence_length=4, too_long="drop"), "shorter")


def test_a_prompt_that_leaves_no_room(option, prepared, write):
    path = write([{"prompt": "a long prompt", "chosen": "a", "rejected": "b"}], "long.jsonl")
    with pytest.raises(UserError, match="line 1: its prompt has 14 tokens, which leaves no room for an answer"):
        prepared(option(path=path))


def test_rows_with_the_same_prompt_are_in_the_same_split(option, prepared, write):
    rows = [{"prompt": f"{i % 30}", "chosen": "a", "rejected": f"b{i}"} for i in range(90)]
    data = option(path=write(rows, "many.jsonl"), validation=HeldOutPrompts(fraction=0.3))
    dataset = prepared(data)
    prompts = []
    for split in ("train", "validation"):
        stored = StoredPreferences(dataset.folder, split, 2)
        prompts.append({bytes(stored.sequence(2 * row)[0][1:3].tolist()) for row in range(stored.num_rows)})
        assert stored.num_rows == 3 * len({p.strip(b"a") for p in prompts[-1]})
    assert not prompts[0] & prompts[1]
    assert rows_of(dataset) + rows_of(dataset, "validation") == 90
    other = prepared(dataclasses.replace(data, validation=HeldOutPrompts(fraction=0.3, seed=1)), "other")
    assert (
        StoredPreferences(other.folder, "train", 2).fingerprint
        != StoredPreferences(dataset.folder, "train", 2).fingerprint
    )
    with pytest.raises(UserError, match="no row is left for the validation split, of 90 rows"):
        prepared(dataclasses.replace(data, validation=HeldOutPrompts(fraction=1e-9)), "none")


def test_pairs_become_labels_and_labels_no_pairs(option, prepared, write):
    labels = prepared(option(form="labels"), "labels")
    stored = StoredPreferences(labels.folder, "train", 1)
    assert stored.num_rows == 8
    assert stored.answers["label"].tolist() == [True, False] * 4
    path = write([{"prompt": "x", "completion": "a", "label": False}], "labelled.jsonl")
    held_out = SeparatePreferences(path=path)
    one = prepared(option(form="labels", path=path, validation=held_out), "one")
    assert StoredPreferences(one.folder, "train", 1).answers["label"].tolist() == [False]
    with pytest.raises(UserError, match="line 1: is one answer with a label; data.form='labels' takes these"):
        prepared(option(path=path), "wrong")


def test_answers_of_the_same_tokens_are_equal(option, prepared, write):
    """White space that the template does not keep is no difference."""
    rows = [{"prompt": "x", "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": "a", "rejected": "a"}]
    with pytest.raises(UserError, match="line 2: 'chosen' and 'rejected' are equal"):
        prepared(option(path=write(rows, "equal.jsonl")))


def test_the_template_lies_beside_the_tokens(option, prepared):
    dataset = prepared(option(template=PlainTemplate(), sequence_length=64))
    found = template_of_dataset(dataset.folder)
    assert found is not None
    assert "assistant" in found.template.render([{"role": "user", "content": "hi"}])
    assert template_of_dataset(prepared(option(), "plain").folder) is None


def test_a_tokenizer_is_needed(option, prepared):
    with pytest.raises(UserError, match="data.tokenizer: expected one, because the run starts from no other"):
        prepared(option(tokenizer=None))
