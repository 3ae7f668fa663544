"""Rows of a split as rows of batches: their order, padding past the end, the fields that are made."""

import types

import numpy as np
import pytest

from model.errors import UserError
from train.data.batches.unpacked import UnpackedBatches, UnpackedEvaluation, check_row_fields


class Filler:
    """Rows whose only field is their number."""

    fields = ("number",)

    def batch(self, numbers, wanted):
        return {"number": np.array([numbers[row] for row in wanted])}


def of_size(batch_size):
    """An option with batches of one size."""
    return types.SimpleNamespace(rows_before=lambda n: n * batch_size, batch_size_at=lambda n: batch_size)


def test_every_epoch_is_another_permutation():
    batches = UnpackedBatches(of_size(3), "train", Filler(), 6, 1)
    assert batches.fields == ("number",)
    epochs = [[number for n in (2 * k, 2 * k + 1) for number in batches.numbers(n)] for k in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(6))] * 3
    assert len(set(map(tuple, epochs))) > 1
    assert batches.rows(1, [2, 0])["number"].tolist() == [batches.numbers(1)[2], batches.numbers(1)[0]]
    assert [UnpackedBatches(of_size(3), "train", Filler(), 6, 2).numbers(n) for n in range(4)] != epochs[:2]


def test_one_pass_ends_with_padding():
    assert [x["number"].tolist() for x in UnpackedEvaluation(Filler(), 5, 2, None, None, 4, 2)] == [
        [0, 1],
        [2, 3],
        [4, -1],
    ]
    short = UnpackedEvaluation(Filler(), 5, 2, 2, [1], 4, 0)
    assert len(short) == short.num_batches == 2
    assert [x["number"].tolist() for x in short] == [[1], [3]]


def test_fields_are_known_and_made_once():
    assert check_row_fields(["a", "positions", "b", "a", "segment_ids"], {"a": 1, "b": 2}, "pairs") == ("a", "b")
    with pytest.raises(UserError, match="no field of pairs is called 'c'"):
        check_row_fields(["c"], ("a", "b"), "pairs")
