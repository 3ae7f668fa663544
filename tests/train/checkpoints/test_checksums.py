"""Checksums of arrays: they depend on every bit, and no array moves between devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train.checkpoints import checksums as module
from train.checkpoints.checksums import checksums, checksums_on_devices, groups_of, split_short_axis


def test_every_bit_counts_in_a_checksum():
    for dtype in ("float32", "bfloat16", "int32", "uint32"):
        x = np.arange(12).astype(jnp.dtype(dtype)).reshape(3, 4)
        whole = checksums({"x": jnp.asarray(x)})["x"]
        raw = bytearray(x.tobytes())
        for bit in range(0, 8 * len(raw), 5):
            raw[bit // 8] ^= 1 << (bit % 8)
            other = np.frombuffer(bytes(raw), x.dtype).reshape(x.shape)
            assert checksums({"x": jnp.asarray(other)})["x"] != whole
            raw[bit // 8] ^= 1 << (bit % 8)
    assert checksums({"x": jnp.array([1.0, 2.0])})["x"] != checksums({"x": jnp.array([2.0, 1.0])})["x"]


def test_checksums_are_those_that_were_always_written():
    """They equal the first recorded checksums of bfloat16, and the result of a line of NumPy."""
    recorded = {(): 15873, (7,): 1053533, (48, 4): 1210821509, (3, 5, 32): 3268860837, (37, 50): 2804102064}
    draw = np.random.default_rng(0)
    for shape, number in recorded.items():
        x = np.asarray(draw.normal(size=shape), np.float32)
        for dtype in ("float32", "bfloat16"):
            x = x.astype(jnp.dtype(dtype))
            bits = x.reshape(-1).view(f"uint{8 * x.dtype.itemsize}").astype(np.uint64)
            weights = 2 * np.arange(x.size, dtype=np.uint64) + 1
            assert checksums({"x": jnp.asarray(x)})["x"] == int((bits * weights % 2**32).sum() % 2**32)
        assert checksums({"x": jnp.asarray(x)})["x"] == number


@pytest.mark.parametrize("shape", [(16, 64, 96), (37, 64, 96), (4001, 96), (4000, 96)], ids=str)
def test_they_take_little_memory(shape):
    """The program does not store all products, which have as many words as the state."""
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    program = checksums_on_devices.lower({"x": x}, (split_short_axis(shape, shape),)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * np.prod(shape) / 8


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((2880, 10), ("all",)), ((10, 2880), (None, "all")), ((33, 24), (None, "all")), ((12, 720, 3), (None, "all"))],
    ids=str,
)
def test_only_sums_go_from_one_device_to_another(shape, spec):
    mesh = jax.make_mesh((8,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    shardings = NamedSharding(mesh, PartitionSpec(*spec))
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    cut = split_short_axis(shape, shardings.shard_shape(shape))
    assert cut[1]
    text = (
        checksums_on_devices.lower({"x": jax.ShapeDtypeStruct(shape, x.dtype, sharding=shardings)}, (cut,))
        .compile()
        .as_text()
    )
    assert "all-gather" not in text
    assert "u32[] all-reduce" in text.replace("u32[]{} all-reduce", "u32[] all-reduce")
    assert checksums({"x": jax.device_put(x, shardings)}) == checksums({"x": x})


def test_few_arrays_are_summed_at_a_time(monkeypatch):
    """The sums over first axes of all arrays of a program are in memory together."""
    arrays = {name: jnp.full((count,), count, jnp.float32) for name, count in (("a", 2), ("b", 3), ("c", 40), ("d", 1))}
    assert [list(group) for group in groups_of(arrays, 20)] == [["a", "b"], ["c"], ["d"]]
    assert list(groups_of({}, 20)) == []
    whole, programs = checksums({"tree": arrays}), []
    monkeypatch.setattr(module, "GROUP_BYTES", 20)
    monkeypatch.setattr(
        module, "checksums_on_devices", lambda *given: programs.append(given) or checksums_on_devices(*given)
    )
    assert checksums({"tree": arrays}) == whole
    assert len(programs) == 3
