import hashlib

from train.data.batches.order import row_order, stable_hash


def test_every_epoch_of_a_source_is_another_permutation():
    order = row_order([10], [1.0], seed=3, split="train")
    epochs = [[order[e * 10 + n] for n in range(10)] for e in range(3)]
    for e, rows in enumerate(epochs):
        assert sorted(rows) == [(0, e, row) for row in range(10)]
    assert len({tuple(row for _, _, row in rows) for rows in epochs}) == 3


def test_a_seed_and_a_split_have_an_order_each():
    def rows(seed, split):
        order = row_order([50], [1.0], seed, split)
        return tuple(order[n][2] for n in range(50))

    assert rows(0, "train") == rows(0, "train")
    assert len({rows(0, "train"), rows(1, "train"), rows(0, "validation")}) == 3


def test_sources_are_mixed_by_weight_and_each_keeps_its_own_order():
    order = row_order([4, 1000], [1.0, 3.0], seed=0, split="train")
    drawn = [order[n] for n in range(400)]
    assert sum(source == 0 for source, _, _ in drawn) == 100
    small = [(epoch, row) for source, epoch, row in drawn if source == 0]
    assert [epoch for epoch, _ in small] == [n // 4 for n in range(100)]  # the small source begins again by itself
    assert len({row for source, _, row in drawn if source == 1}) == 300


def test_the_hash_is_the_first_bytes_of_blake2b():
    expected = int.from_bytes(hashlib.blake2b(b"(0, 'train', 1)", digest_size=4).digest(), "big")
    assert stable_hash(0, "train", 1) == expected < 2**32
