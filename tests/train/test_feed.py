import jax
import numpy as np
import pytest

from model.errors import UserError
from train import feed
from train.sharding import Mesh, Sharding, make_mesh, named


def rows_of(mesh, table=Sharding()):
    return named(make_mesh(mesh), table, ("batch", "sequence"))


def test_local_rows_of_one_process_are_all():
    assert feed.local_rows(rows_of(Mesh(data=2, fsdp=2, tensor=2)), 12) == list(range(12))


def test_rows_lie_where_the_mesh_says():
    rows = rows_of(Mesh(data=2, fsdp=2, tensor=2))
    batch = {"tokens": np.arange(32, dtype=np.int32).reshape(8, 4), "segment_ids": np.ones((8, 4), np.int32)}
    placed = feed.place(batch, rows, 8, isolated=True)
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])
    shards = {s.device.id: np.asarray(s.data) for s in placed["tokens"].addressable_shards}
    assert {x.shape for x in shards.values()} == {(2, 4)}  # four ways, and twice over tensor
    np.testing.assert_array_equal(np.unique(np.concatenate(list(shards.values()))), np.arange(32))


def test_what_tells_documents_apart_is_left_out_where_they_see_each_other():
    batch = dict.fromkeys(("tokens", "targets", "loss_mask", "segment_ids", "positions"), np.zeros((8, 4), np.int32))
    assert set(feed.place(batch, rows_of(Mesh()), 8, isolated=False)) == {"tokens", "targets", "loss_mask"}
    assert set(feed.place(batch, rows_of(Mesh()), 8, isolated=True)) == set(batch)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    feed.check_divides(16, 2, rows_of(Mesh()))
    feed.check_divides(4, 1, rows_of(Mesh(data=2, fsdp=2, tensor=2)))
    with pytest.raises(UserError, match=r"data\.batch_size: 12 sequences cannot be split 8 ways .* a multiple of 8"):
        feed.check_divides(12, 1, rows_of(Mesh()))
    with pytest.raises(UserError, match=r"8 sequences in 2 micro-batches cannot be split 8 ways .* a multiple of 16"):
        feed.check_divides(8, 2, rows_of(Mesh(data=4, fsdp=2)))


def test_a_sequence_that_the_mesh_does_not_divide_is_refused():
    table = Sharding(batch=("data",), sequence=("tensor",))
    feed.check_length(15, rows_of(Mesh(tensor=4)))
    feed.check_length(16, rows_of(Mesh(tensor=4), table))
    with pytest.raises(UserError, match=r"data\.sequence_length: 18 tokens cannot be split 4 ways"):
        feed.check_length(18, rows_of(Mesh(tensor=4), table))


def test_process_count_is_one_here():
    assert jax.process_count() == 1  # the tests above are of that case; several hosts are the pipeline's tests
