"""Batches of pairs: by hand, as pure functions of n, and one pass over a split."""

import numpy as np
import pytest

from model.encoder.source import PADDING
from model.errors import UserError
from train.data.pairs.batches import FORMATS, PairBatches, PairEvaluation

END = 256  # of the bytes


def row_of(text, length):
    ids = [*text.encode(), END]
    return ids + [0] * (length - len(ids))


def test_a_pair_by_hand(option, prepared):
    """The first pair that is held out: 'ab' and 'ba'."""
    batch = PairEvaluation(prepared(option()), option()).batch(0)
    assert {name: x.dtype for name, x in batch.items()} == FORMATS
    assert batch["source"][0].tolist() == row_of("ab", 6)
    assert batch["source_segment_ids"][0].tolist() == [0] * 3 + [PADDING] * 3
    assert batch["targets"][0].tolist() == row_of("ba", 5)
    assert batch["tokens"][0].tolist() == [0, *row_of("ba", 5)[:2], 0, 0]
    assert batch["weights"][0].tolist() == [1, 1, 1, 0, 0]


def test_batch_n_depends_on_n_alone(option, prepared):
    batches = PairBatches(prepared(option()), option())
    ahead = batches.iterator(start=1)
    for n in (1, 2, 3):
        got, expected = next(ahead), batches.rows(n)
        for name in FORMATS:
            np.testing.assert_array_equal(got[name], expected[name])
    ahead.close()
    np.testing.assert_array_equal(batches.rows(2, [1])["source"], batches.rows(2)["source"][1:])
    assert batches.num_targets(2) == batches.rows(2)["weights"].sum()
    epoch = [number for n in range(5) for number in batches.numbers(n)]
    assert sorted(epoch[:5]) == sorted(epoch[5:]) == [0, 1, 2, 3, 4]
    other = PairBatches(prepared(option()), option(seed=1))
    assert [other.numbers(n) for n in range(5)] != [batches.numbers(n) for n in range(5)]


def test_the_pairs_of_a_batch_have_names(option, prepared):
    batches = PairBatches(prepared(option()), option())
    for number, span in zip(batches.numbers(0), batches.documents(0), strict=True):
        assert span.document == number
        assert span.name.endswith(f"pairs.jsonl:{number + 1}")
        assert span.text.startswith(("ab", "cde", "f", "ghij", "kl")[number])


def test_one_pass_over_a_split(option, prepared):
    evaluation = PairEvaluation(prepared(option()), option())
    batches = list(evaluation)
    assert len(batches) == len(evaluation) == evaluation.num_batches == 2
    assert evaluation.coverage.tokens == sum(batch["weights"].sum() for batch in batches) == 3 + 4 + 2
    assert not batches[1]["weights"][1].any()
    assert PairEvaluation(prepared(option()), option(), limit=1).coverage.tokens == 7


def test_only_the_fields_asked_for_are_made(option, prepared):
    assert PairBatches(prepared(option()), option(), fields=("tokens", "positions")).rows(0).keys() == {"tokens"}
    with pytest.raises(UserError, match="no field of pairs is called 'sources'"):
        PairBatches(prepared(option()), option(), fields=("sources",))
