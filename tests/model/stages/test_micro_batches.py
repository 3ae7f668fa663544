import numpy as np
import pytest

from model.stages.micro_batches import join_rows, order_rows, split_rows
from tests.model.stages.test_schedule import pipeline


@pytest.mark.parametrize(("stages", "micro_batches", "row_shards"), [(2, 2, 1), (2, 4, 2), (3, 6, 2), (1, 4, 1)])
def test_rows_are_those_of_accumulated_micro_batches_and_stay_in_their_shards(stages, micro_batches, row_shards):
    option = pipeline(stages, 1, micro_batches, row_shards)
    rows = np.arange(24)[:, None] + np.zeros(3)
    ordered = order_rows(rows, option)
    split = split_rows(ordered, option)
    by_number = split.reshape(micro_batches, -1, 3)
    for number in range(micro_batches):
        np.testing.assert_array_equal(by_number[number, :, 0], np.arange(number, 24, micro_batches))
    np.testing.assert_array_equal(join_rows(split, option), ordered)
    # Split over stages, then over shards: each device gets rows of its own shard.
    shards = ordered[:, 0].reshape(stages, row_shards, -1)
    for shard in range(row_shards):
        assert set(shards[:, shard].ravel() // (24 // row_shards)) == {shard}
