"""Batches of preferences: their fields by hand, and batch n as a function of n alone."""

import dataclasses

import numpy as np
import pytest

from model.errors import UserError
from train.data.preferences.batches import PreferenceBatches, PreferenceEvaluation

END = 256


@pytest.fixture
def pairs(option, prepared):
    data = option()
    return PreferenceBatches(prepared(data), data)


def test_a_pair_by_hand(pairs):
    """Row 2 of the file: the prompt 2, the answers aaa and bc; each between the marks of a document."""
    place = pairs.numbers(0).index(2) if 2 in pairs.numbers(0) else None
    n = 0 if place is not None else 1
    row = {name: x[pairs.numbers(n).index(2)] for name, x in pairs.rows(n).items()}
    chosen = [END, *b"2aaa", END]
    np.testing.assert_array_equal(row["chosen_tokens"], [*chosen, 0, 0, 0])
    np.testing.assert_array_equal(row["chosen_targets"], [*chosen[1:], 0, 0, 0, 0])
    np.testing.assert_array_equal(row["chosen_weights"], [0, 1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["rejected_tokens"], [END, *b"2bc", END, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["rejected_weights"], [0, 1, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["margin"], [2] * 9)


def test_batch_n_depends_on_n_alone(pairs, option, prepared):
    """Every epoch has each row once; hosts that read some rows, and a run that begins at n, see the same."""
    numbers = [number for n in range(4) for number in pairs.numbers(n)]
    assert [sorted(numbers[i : i + 4]) for i in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
    again = PreferenceBatches(prepared(option()), option())
    for n, batch in enumerate(again.iterator(2, stop=5), 2):
        for name, x in pairs.rows(n).items():
            np.testing.assert_array_equal(batch[name], x)
        np.testing.assert_array_equal(next(pairs.iterator(n, [2, 0]))["chosen_tokens"], batch["chosen_tokens"][[2, 0]])
        counted = sum(int(batch[f"{text}weights"].sum()) for text in ("chosen_", "rejected_"))
        assert pairs.num_targets(n) == counted
    other = PreferenceBatches(prepared(option()), option(seed=1))
    assert [other.numbers(n) for n in range(4)] != [pairs.numbers(n) for n in range(4)]


def test_only_the_fields_asked_for_are_made(pairs, option, prepared):
    batches = PreferenceBatches(prepared(option()), option(), fields=("rejected_weights", "segment_ids", "positions"))
    assert list(batches.rows(0)) == ["rejected_weights"]
    with pytest.raises(UserError, match="no field of pairs is called 'label'"):
        PreferenceBatches(prepared(option()), option(), fields=("label",))


def test_the_answers_of_a_batch_have_names(pairs):
    found = pairs.documents(0, [1])
    number = pairs.numbers(0)[1]
    assert [one.name for one in found] == [f"pairs.jsonl:{number + 1}"] * 2
    assert [one.text for one in found] == ["a" * (number + 1), "bc"]


def test_labels_and_answers_to_other_prompts(option, prepared):
    """Both answers of a pair have one prompt, so that the answer to another one is that of a later pair."""
    data = option(form="labels", batch_size=8)
    batches = PreferenceBatches(prepared(data), data)
    rows, numbers = batches.rows(0), batches.numbers(0)
    texts = [prompt + answer for prompt, answer in zip("00112233", ("a", "bc", "aa", "bc", "aaa", "bc", "aaaa", "bc"))]
    for row, number in enumerate(numbers):
        length = int(np.flatnonzero(rows["weights"][row])[-1]) + 2
        assert bytes(rows["tokens"][row, 1 : length - 1].tolist()).decode() == texts[number]
        assert rows["label"][row].tolist() == [float(number % 2 == 0)] * 9
        later = next(i % 8 for i in range(number + 1, number + 8) if texts[i % 8][0] != texts[number][0])
        other = [END, *(texts[number][0] + texts[later][1:]).encode(), END]
        np.testing.assert_array_equal(rows["other_tokens"][row, : len(other)], other)
        assert int(rows["other_weights"][row].sum()) == len(other) - 2
    assert batches.num_targets(0) == int(rows["weights"].sum())


def test_answers_that_do_not_fit_another_prompt_are_passed_over(option, prepared, write):
    rows = [{"prompt": "a" * n, "completion": "b" * (8 - n), "label": True} for n in (2, 6)]
    path = write(rows, "labelled.jsonl")
    data = option(form="labels", path=path, batch_size=2, sequence_length=10)
    batches = PreferenceBatches(prepared(data), data)
    weights = dict(zip(batches.numbers(0), batches.rows(0)["other_weights"].sum(1), strict=True))
    assert weights == {0: 3, 1: 0}  # two tokens and the end after a short prompt; six would not fit after the long one


def test_one_pass_over_a_split(option, prepared):
    data = option(batch_size=3)
    split = PreferenceEvaluation(prepared(data), data, "train")
    assert split.num_batches == len(split) == 2
    batches = list(split)
    assert [split.numbers(n) for n in range(2)] == [[0, 1, 2], [3, -1, -1]]
    assert batches[1]["chosen_weights"].any(1).tolist() == [True, False, False]
    counted = sum(int(batch[f"{text}weights"].sum()) for batch in batches for text in ("chosen_", "rejected_"))
    assert split.coverage.tokens == counted
    assert PreferenceEvaluation(prepared(data), data, "train", limit=1).num_batches == 1
    (of_host,) = PreferenceEvaluation(prepared(data), data, "validation", rows=[1])
    whole = PreferenceEvaluation(prepared(data), data).batch(0)
    np.testing.assert_array_equal(of_host["chosen_tokens"], whole["chosen_tokens"][[1]])


def test_a_read_ahead_of_nothing(option, prepared):
    data = dataclasses.replace(option(), prefetch=0)
    batches = PreferenceBatches(prepared(data), data)
    np.testing.assert_array_equal(next(batches.iterator(3))["chosen_tokens"], batches.rows(3)["chosen_tokens"])


def test_margins_that_no_row_has_are_missed(option, prepared, write):
    assert PreferenceBatches(prepared(option()), option(), "train", ["margin"]).rows(0)["margin"].any()
    data = option(path=write([{"prompt": "p", "chosen": "a", "rejected": "b"}], "plain.jsonl"))
    dataset = prepared(data, "plain")
    with pytest.raises(UserError, match="no row has a margin above 0"):
        PreferenceBatches(dataset, data, "train", ["margin"])
    assert not PreferenceBatches(dataset, data).rows(0)["margin"].any()
