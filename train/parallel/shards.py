"""The shards of a parameter on this process's devices, filled slice by slice while published weights are read.

On CPUs they are filled in place, and become the device's memory as they are. Other devices get each slice when it is
read, so that the host holds no more.
"""

import functools
from collections.abc import Collection
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from model.families.regions import Bounds
from train.parallel.memory import aligned, copy


class Shards(Protocol):
    """The shards of a parameter, which has this format."""

    dtype: np.dtype

    def regions(self, index: tuple[int, ...]) -> dict[Bounds, list[jax.Device]]:
        """The bounds that devices of this process hold of the slice at `index`, each with these devices."""

    def write(self, index: tuple[int, ...], bounds: Bounds, x: np.ndarray) -> None:
        """Writes what lies within these bounds of a slice, on every device that holds it; copies it."""

    def equal(self, index: tuple[int, ...], bounds: Bounds, x: np.ndarray) -> bool:
        """Whether the devices hold these values there."""

    def array(self) -> jax.Array:
        """The parameter."""


class _Held:
    """The parts of a parameter that the devices of this process hold."""

    _shards: dict[jax.Device, Any]

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding, devices: Collection[jax.Device] | None = None
    ) -> None:
        """Args: the parameter's shape, format and placement, and the devices of this process; None for those here."""
        self.shape, self.dtype, self.sharding = shape, np.dtype(dtype), sharding
        devices = sharding.addressable_devices if devices is None else devices
        self.bounds: dict[jax.Device, Bounds] = {
            device: tuple(one.indices(size)[:2] for one, size in zip(index, shape, strict=True))
            for device, index in sharding.devices_indices_map(shape).items()
            if device in devices
        }

    def regions(self, index: tuple[int, ...]) -> dict[Bounds, list[jax.Device]]:
        """See `Shards`."""
        found: dict[Bounds, list[jax.Device]] = {}
        for device, bounds in self.bounds.items():
            if all(start <= i < stop for i, (start, stop) in zip(index, bounds, strict=False)):
                found.setdefault(bounds[len(index) :], []).append(device)
        return found

    def local_index(self, device: jax.Device, index: tuple[int, ...]) -> tuple[int, ...]:
        """The index of a slice within a device's shard."""
        return tuple(i - start for i, (start, _) in zip(index, self.bounds[device], strict=False))

    def equal(self, index: tuple[int, ...], bounds: Bounds, x: np.ndarray) -> bool:
        """See `Shards`."""
        held = (self._shards[device][self.local_index(device, index)] for device in self.regions(index)[bounds])
        return all(np.array_equal(np.asarray(there).astype(x.dtype, copy=False), x) for there in held)

    def joined(self, shards: dict[jax.Device, jax.Array]) -> jax.Array:
        """The parameter whose shards these are."""
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, list(shards.values()))


class HostShards(_Held):
    """Shards in the memory of the host, which CPU devices use as it is."""

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding, devices: Collection[jax.Device] | None = None
    ) -> None:
        super().__init__(shape, dtype, sharding, devices)
        self._shards = {device: aligned(sharding.shard_shape(shape), dtype) for device in self.bounds}

    def write(self, index: tuple[int, ...], bounds: Bounds, x: np.ndarray) -> None:
        """See `Shards`."""
        for device in self.regions(index)[bounds]:
            copy(self._shards[device][self.local_index(device, index)], x)

    def shard(self, device: jax.Device) -> np.ndarray:
        """The part that a device holds."""
        return self._shards[device]

    def array(self) -> jax.Array:
        """See `Shards`."""
        return self.joined({device: jax.device_put(x, device, may_alias=True) for device, x in self._shards.items()})


class DeviceShards(_Held):
    """Shards in the memory of devices, written in place there."""

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding, devices: Collection[jax.Device] | None = None
    ) -> None:
        super().__init__(shape, dtype, sharding, devices)
        local = sharding.shard_shape(shape)
        self._shards = {device: jnp.zeros(local, dtype, device=device) for device in self.bounds}

    def write(self, index: tuple[int, ...], bounds: Bounds, x: np.ndarray) -> None:
        """See `Shards`."""
        devices = self.regions(index)[bounds]
        piece = np.empty(x.shape, self.dtype)
        copy(piece, x)
        for device in devices:
            local_index = self.local_index(device, index)
            self._shards[device] = _write_slice(self._shards[device], jax.device_put(piece, device), local_index)

    def array(self) -> jax.Array:
        """See `Shards`."""
        return self.joined(self._shards)


def new_shards(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Shards:
    """Shards to fill; the whole of each is going to be written."""
    device: Any = next(iter(sharding.device_set))
    return (HostShards if device.platform == "cpu" else DeviceShards)(shape, dtype, sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _write_slice(shard: jax.Array, piece: jax.Array, index: tuple[int, ...]) -> jax.Array:
    """Writes a slice into a shard, in place."""
    # For at[index].set XLA on CPUs copies a whole stack of bfloat16, to round its present values.
    start = (*index, *(0,) * piece.ndim)
    return jax.lax.dynamic_update_slice(shard, piece.reshape(*(1,) * len(index), *piece.shape), start)
