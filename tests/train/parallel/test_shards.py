"""Shards that are filled slice by slice, on CPUs in the host's memory and elsewhere on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.tiers import representatives
from train.parallel import shards
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.shards import DeviceShards, HostShards, new_shards


def placed(*spec):
    return NamedSharding(make_mesh(Mesh(data=2, fsdp=2, tensor=2)), PartitionSpec(*spec))


@pytest.mark.parametrize("kind", [HostShards, DeviceShards])
@pytest.mark.parametrize("dtype", representatives(["float32", "bfloat16"], "bfloat16"))
@pytest.mark.parametrize("spec", [(None, "fsdp", "tensor"), (("fsdp",), None, "tensor"), ()])
def test_slices_make_the_parameter(kind, dtype, spec):
    x = np.arange(4 * 8 * 6, dtype=np.float32).reshape(4, 8, 6)
    filled = kind(x.shape, dtype, placed(*spec))
    for row in range(4):
        for bounds, devices in filled.regions((row,)).items():
            assert len(devices) == 8 // (2 * ("fsdp" in spec) or 1) // (2 * ("tensor" in spec) or 1) or spec[0]
            part = x[row][tuple(slice(*one) for one in bounds)]
            filled.write((row,), bounds, part)
            assert filled.equal((row,), bounds, part)
            assert not filled.equal((row,), bounds, part + 1)
    made = filled.array()
    np.testing.assert_array_equal(made.astype(np.float32), x)
    assert made.dtype == dtype
    assert made.sharding.is_equivalent_to(placed(*spec), 3)


def test_a_slice_belongs_to_the_devices_that_hold_its_row():
    filled = HostShards((4, 8), np.float32, placed("fsdp"))
    first, last = ({d.id for devices in filled.regions((row,)).values() for d in devices} for row in (0, 3))
    assert first.isdisjoint(last)
    assert len(first) == len(last) == 4


def test_on_cpus_the_host_memory_is_the_device_memory():
    filled = new_shards((64, 128), jnp.bfloat16, placed("fsdp"))
    assert isinstance(filled, HostShards)
    made = filled.array()
    for shard in made.addressable_shards:
        assert shard.data.unsafe_buffer_pointer() == filled.shard(shard.device).ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_devices_a_slice_is_written_in_place(dtype):
    stack, piece = jnp.zeros((4, 8, 16), dtype), jnp.ones(16, dtype)
    program = shards._write_slice.lower(stack, piece, (2, 5)).compile()
    assert program.memory_analysis().temp_size_in_bytes < stack.nbytes / 4
    written = np.asarray(shards._write_slice(stack, piece, (2, 5)))
    assert written[2, 5].all()
    assert written.sum() == 16
    assert stack.is_deleted()


def test_a_slice_that_is_reused_by_the_host_is_on_the_device():
    """The host reads the next tensor into the same memory."""
    filled, x = DeviceShards((2, 1 << 16), np.float32, placed()), np.ones(1 << 16, np.float32)
    for row in (0, 1):
        (bounds,) = filled.regions((row,))
        filled.write((row,), bounds, x)
        x[:] = 2
    assert set(np.unique(jax.device_get(filled.array()[0]))) == {1.0}
