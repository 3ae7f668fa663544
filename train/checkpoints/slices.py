"""Reads large arrays of a checkpoint slice by slice into the memory of CPU devices, so that none is in memory twice.

Orbax reads an array into memory of the host and copies it to its device, which on a CPU is the same memory.
"""

import collections
import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import tensorstore

from model.families.regions import Bounds
from train.checkpoints.handlers import NODE_BYTES
from train.parallel.shards import HostShards

SLICE_BYTES = 16 << 20  # about as much is read at a time; smaller arrays are left to orbax
SLICES = 2  # this many are read at the same time


def can_read(x: jax.ShapeDtypeStruct) -> bool:
    """Whether an array is read here: it is large, and its devices are CPUs."""
    large = math.prod(x.shape) * x.dtype.itemsize >= SLICE_BYTES
    return large and next(iter(x.sharding.device_set)).platform == "cpu"


def read_in_slices(item: pathlib.Path, arrays: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads the parts of arrays that the devices of this process hold.

    The memory is the host's, as for `HostShards`: a program to which these arrays are donated copies them first.

    Args:
      item: the folder of an item of a checkpoint, a plain path.
      arrays: their shapes, formats and placements, by the names in the item.

    Raises ValueError as tensorstore does, and for an array that has another shape or format.
    """
    # Without memory for the index of the database each chunk reads it again.
    context = tensorstore.Context({"cache_pool#nodes": {"total_bytes_limit": NODE_BYTES}})
    return {name: _read(item, name, x, context) for name, x in arrays.items()}


def _read(item: pathlib.Path, name: str, wanted: jax.ShapeDtypeStruct, context: tensorstore.Context) -> jax.Array:
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}, "cache_pool": "cache_pool#nodes"}
    spec = {"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}, "fill_missing_data_reads": False}
    stored = tensorstore.open(spec, open=True, read=True, context=context).result()
    if stored.shape != wanted.shape or stored.dtype.numpy_dtype != wanted.dtype:
        described = f"{stored.dtype.name}{list(stored.shape)}"
        raise ValueError(f"{name} is stored as {described}, expected {wanted.dtype}{list(wanted.shape)}")
    chunk = [size or 1 for size in stored.chunk_layout.read_chunk.shape or ()]
    shards = HostShards(wanted.shape, wanted.dtype, wanted.sharding)
    reads: collections.deque[tensorstore.WriteFutures] = collections.deque()
    for bounds, (first, *others) in shards.regions(()).items():
        target = tensorstore.array(shards.shard(first))[tensorstore.d[:].translate_to[[start for start, _ in bounds]]]
        for box in boxes(bounds, chunk, SLICE_BYTES // wanted.dtype.itemsize):
            if len(reads) == SLICES:
                reads.popleft().result()
            reads.append(target[box].write(stored[box]))
        while reads:
            reads.popleft().result()
        for device in others:
            shards.shard(device)[...] = shards.shard(first)
    return shards.array()


def boxes(bounds: Bounds, chunk: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Yields boxes that make up the bounds: of whole chunks within them, and of at most `most` numbers or one chunk."""
    steps = list(chunk)
    for axis in reversed(range(len(steps))):
        start, stop = bounds[axis]
        chunks = stop // chunk[axis] - start // chunk[axis] + 1
        steps[axis] *= max(1, min(chunks, most // math.prod(steps)))
    cuts = [
        [start, *range((start // step + 1) * step, stop, step), stop]
        for (start, stop), step in zip(bounds, steps, strict=True)
    ]
    yield from itertools.product(*([slice(*ends) for ends in itertools.pairwise(axis)] for axis in cuts))
