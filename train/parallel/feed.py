"""Moves batches from the host to the mesh: selects the rows that this process needs, and puts them on its devices."""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from model.attention.heads import divisors
from model.config import ModelConfig
from model.errors import UserError
from train.data.interface import DataOption, TrainingBatches

HostBatch = dict[str, np.ndarray]

# The fields that the model needs only if it has to tell documents or padding apart.
DOCUMENT_FIELDS = ("segment_ids", "positions")


def needs_segments(data: DataOption, model: ModelConfig) -> bool:
    """Whether a model needs the segments of its rows, in training and in evaluation alike.

    It needs them if documents do not see each other, and if it reads their lengths or its tokens see later ones: then
    documents that see each other are one segment, and padding is another, because no length may count it and no token
    may see it.
    """
    return not data.cross_document_attention or model.reads_lengths or model.visibility.sees_later


def batch_fields(objective_fields: tuple[str, ...], data: DataOption, model: ModelConfig) -> tuple[str, ...]:
    """The fields of a batch: those that the objective reads, and those of sources and documents that the model needs.

    Args: the fields of the objective, the data, the model.
    """
    objective_fields += data.source_fields if model.encoder is not None else ()
    return objective_fields + (DOCUMENT_FIELDS if needs_segments(data, model) else ())


def check_batch_size(
    batch_size: int, parts: int, rows: NamedSharding, stages: int = 1, name: str = "data.batch_size"
) -> None:
    """Raises UserError when the mesh does not divide the (micro-)batch; stages have whole micro-batches.

    `name` is the field that the batch size comes from.
    """
    ways = _ways(rows, 0) // stages
    if (batch_size // parts) % ways:
        micro = f" in {parts} micro-batches" if parts > 1 else ""
        raise UserError(
            f"{name}: {batch_size} sequences{micro} cannot be split {ways} ways over the mesh's batch axes; "
            f"use a multiple of {ways * parts}, or change mesh.data, mesh.fsdp and mesh.expert"
        )


def check_sequence_length(length: int, rows: NamedSharding, name: str = "data.sequence_length") -> None:
    """Raises UserError when sequences are split and the mesh does not divide them.

    `name` is the field that the length comes from.
    """
    ways = _ways(rows, 1)
    if length % ways:
        smaller = [str(number) for number in divisors(length) if number < ways]
        known = " or ".join([", ".join(smaller[:-1]), smaller[-1]] if smaller[1:] else smaller)
        raise UserError(
            f"{name}: {length} tokens cannot be split {ways} ways over the mesh's axes; use "
            f"a multiple of {ways}, or mesh.context (with all axes of sharding.activations.sequence) of {known} in all"
        )


def _ways(rows: NamedSharding, axis: int) -> int:
    """How many parts an axis of the batch is split into."""
    whole = (rows.num_devices, rows.num_devices)  # every split divides this shape
    return whole[axis] // rows.shard_shape(whole)[axis]


def local_rows(rows: NamedSharding, batch_size: int) -> list[int]:
    """The rows of a global batch that the devices of this process hold, in order."""
    needed: set[int] = set()
    for index in rows.addressable_devices_indices_map((batch_size, rows.num_devices)).values():
        assert index is not None
        needed.update(range(*index[0].indices(batch_size)))
    return sorted(needed)


def to_devices(batch: HostBatch, rows: NamedSharding, batch_size: int, with_segments: bool) -> dict[str, jax.Array]:
    """A host's rows as global arrays on the mesh.

    Args:
      batch: this process's rows of every field, each (rows, T).
      rows: the placement of (batch, sequence).
      batch_size: rows of the global batch.
      with_segments: whether the model needs the segments (see `needs_segments`).
    """
    wanted = {name: x for name, x in batch.items() if with_segments or name not in DOCUMENT_FIELDS}
    if jax.process_count() == 1:
        return jax.device_put(wanted, rows)
    length = next(iter(wanted.values())).shape[1]
    return {n: jax.make_array_from_process_local_data(rows, x, (batch_size, length)) for n, x in wanted.items()}


def batches_on_devices(
    batches: TrainingBatches, rows: NamedSharding, start: int, with_segments: bool
) -> Iterator[dict[str, jax.Array]]:
    """Batches start, start + 1, ... on the mesh; see `to_devices`."""
    for n, batch in enumerate(batches.iterator(start, functools.partial(local_rows, rows)), start):
        yield to_devices(batch, rows, batches.data.batch_size_at(n), with_segments)
