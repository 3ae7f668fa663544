import jax
import numpy as np
import pytest

from model.errors import UserError
from train.data import prepare
from train.data.batches.pipeline import Batches
from train.parallel import feed
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, Sharding, layout_of


def rows_of(mesh, table=Sharding()):
    return layout_of(make_mesh(mesh), table).placement(("batch", "sequence"))


def test_local_rows_of_one_process_are_all():
    assert feed.local_rows(rows_of(Mesh(data=2, fsdp=2, tensor=2)), 12) == list(range(12))


def test_rows_lie_where_the_mesh_says():
    rows = rows_of(Mesh(data=2, fsdp=2, tensor=2))
    batch = {"tokens": np.arange(32, dtype=np.int32).reshape(8, 4), "segment_ids": np.ones((8, 4), np.int32)}
    placed = feed.to_devices(batch, rows, 8, with_segments=True)
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])
    shards = {s.device.id: np.asarray(s.data) for s in placed["tokens"].addressable_shards}
    assert {x.shape for x in shards.values()} == {(2, 4)}  # four ways, and twice over tensor
    np.testing.assert_array_equal(np.unique(np.concatenate(list(shards.values()))), np.arange(32))


def test_what_tells_documents_apart_is_left_out_where_they_see_each_other():
    batch = dict.fromkeys(("tokens", "targets", "weights", "segment_ids", "positions"), np.zeros((8, 4), np.int32))
    assert set(feed.to_devices(batch, rows_of(Mesh()), 8, with_segments=False)) == {"tokens", "targets", "weights"}
    assert set(feed.to_devices(batch, rows_of(Mesh()), 8, with_segments=True)) == set(batch)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    feed.check_batch_size(16, 2, rows_of(Mesh()))
    feed.check_batch_size(4, 1, rows_of(Mesh(data=2, fsdp=2, tensor=2)))
    with pytest.raises(UserError, match=r"data\.batch_size: 12 sequences cannot be split 8 ways .* a multiple of 8"):
        feed.check_batch_size(12, 1, rows_of(Mesh()))
    with pytest.raises(UserError, match=r"8 sequences in 2 micro-batches cannot be split 8 ways .* a multiple of 16"):
        feed.check_batch_size(8, 2, rows_of(Mesh(data=4, fsdp=2)))


def test_a_sequence_that_the_mesh_does_not_divide_is_refused():
    table = Sharding(activations=ActivationAxes(batch=("data",), sequence=("tensor",)))
    feed.check_sequence_length(15, rows_of(Mesh(tensor=4)))
    feed.check_sequence_length(16, rows_of(Mesh(tensor=4), table))
    with pytest.raises(
        UserError, match=r"data\.sequence_length: 18 tokens cannot be split 4 ways .* of 1, 2 or 3 in all"
    ):
        feed.check_sequence_length(18, rows_of(Mesh(tensor=4), table))
    with pytest.raises(
        UserError, match=r"17 tokens cannot be split 8 ways .* a multiple of 8, or mesh.context .* of 1 in"
    ):
        feed.check_sequence_length(17, rows_of(Mesh(context=8)))
    with pytest.raises(UserError, match=r"^data\.source_length: 18 tokens cannot be split 4 ways"):
        feed.check_sequence_length(18, rows_of(Mesh(context=4)), "data.source_length")


class OneHost:
    """A placement as the process sees it that has some of the devices."""

    def __init__(self, rows, devices):
        self.rows, self.devices = rows, devices
        self.num_devices = rows.num_devices

    def addressable_devices_indices_map(self, shape):
        return {device: self.rows.devices_indices_map(shape)[device] for device in self.devices}


@pytest.mark.parametrize("hosts", [1, 2, 8])
@pytest.mark.parametrize(
    "mesh", [Mesh(), Mesh(fsdp=8), Mesh(data=2, fsdp=2, tensor=2), Mesh(data=1, tensor=8)], ids=str
)
def test_every_host_asks_for_the_rows_of_its_devices_and_all_hosts_for_all(mesh, hosts):
    rows, share = rows_of(mesh), 8 // hosts
    of_hosts = []
    for host in range(hosts):
        devices = [device for device in jax.devices() if device.id // share == host]
        asked = feed.local_rows(OneHost(rows, devices), 16)
        held = {row for device in devices for row in range(*rows.devices_indices_map((16, 4))[device][0].indices(16))}
        assert set(asked) == held
        assert asked == sorted(held)
        of_hosts.append(asked)
    assert set().union(*of_hosts) == set(range(16))
    if mesh.tensor == 1:  # nobody reads what another one reads
        assert sum(map(len, of_hosts)) == 16


def test_the_order_of_the_data_does_not_depend_on_the_number_of_hosts(tiny_experiment, tmp_path):
    """A run that moves from 1 to 2 to 4 to 1 hosts reads the rows of one that stays, each from its own start."""
    data, rows = tiny_experiment().data, rows_of(Mesh(fsdp=8))
    folder = str(prepare(data, tmp_path / "data"))
    whole = Batches(folder, data).iterator(0)
    for start, hosts in ((0, 1), (3, 2), (6, 4), (9, 1)):
        devices = [jax.devices()[8 // hosts * host : 8 // hosts * (host + 1)] for host in range(hosts)]
        local = [feed.local_rows(OneHost(rows, some), data.batch_size) for some in devices]
        readers = [Batches(folder, data).iterator(start, asked) for asked in local]
        for _ in range(3):
            expected, parts = next(whole), list(map(next, readers))
            for name, x in expected.items():
                np.testing.assert_array_equal(
                    np.concatenate([part[name] for part in parts])[np.argsort(np.concatenate(local))], x
                )
        for reader in readers:
            reader.close()
    whole.close()


def test_process_count_is_one_here():
    assert jax.process_count() == 1  # the tests of `place` above are of that case
