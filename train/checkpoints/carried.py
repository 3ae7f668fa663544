"""Arrays beside the state in a checkpoint: those that the preparation of batches carries from one step to the next.

They are part of the item "rest", under the names "carried.NAME"; the note of the checkpoint describes them, so that
their shapes need not be known. Only a run that continues reads them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

CARRIED = "carried"
_FORMATS = ("float32", "int32", "uint32", "uint8")


def placed(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The arrays on a device of this process, by the names that they have in a checkpoint."""
    for name, x in arrays.items():
        assert x.dtype.name in _FORMATS, f"{name} is {x.dtype}; a checkpoint carries {', '.join(_FORMATS)}"
    return {f"{CARRIED}.{name}": jax.device_put(x, jax.local_devices()[0]) for name, x in arrays.items()}


def described(arrays: Mapping[str, jax.Array]) -> dict[str, list[Any]]:
    """The shape and the format of each array, for a note."""
    return {name: [list(x.shape), x.dtype.name] for name, x in arrays.items()}


def abstract_carried(note: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the arrays that a note describes, on a device of this process; none in an earlier checkpoint."""
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)
        for name, (shape, dtype) in note.get(CARRIED, {}).items()
    }


def without_carried(names: Mapping[str, Any]) -> set[str]:
    """The names of the arrays of the state alone."""
    return {name for name in names if not name.startswith(f"{CARRIED}.")}
