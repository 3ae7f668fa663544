"""Collects kept taps while layers run: of all layers that have the tap, or of chosen layers without holding the others.

In a scan of layers, a tap of all of them is a result of the scan. For a tap of chosen layers, the scan carries a buffer
into which these layers write. Layers that are written out keep their taps one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.layers import Group
from model.taps.values import Taps

# A function that runs every layer of a pattern once: (carry, inputs[, caches]) -> (carry, (caches, given)). The last of
# the inputs are the numbers of the layers; `given` has a tuple for each index of the pattern, whose first item is the
# kept taps of the layer, by name.
Turn = Callable[..., tuple[Any, tuple[Any, Any]]]


class Kept:
    """Collects the taps of layers while groups of them run in turn."""

    def __init__(self, taps: Taps) -> None:
        """Args: the taps that the caller asked for."""
        self.taps = taps
        # By name: the numbers of layers, and their taps with a leading axis for these layers.
        self.parts: dict[str, list[tuple[Sequence[int], jax.Array]]] = {}

    def run_group(
        self, repeat: Callable[[Turn, Any, Any], Any], group: Group, turn: Turn, carry: Any, inputs: Any, scanned: bool
    ) -> tuple[Any, tuple[Any, Any]]:
        """Runs all turns of a group with `repeat`, and removes the kept taps from its result."""
        if not self.taps.keep:
            return repeat(turn, carry, inputs)
        if not scanned:
            return repeat(self._one_by_one(turn), carry, inputs)
        buffers = self._buffers(group, turn, carry, inputs)
        (carry, buffers), (caches, given) = repeat(self._into_buffers(group, turn), (carry, buffers), inputs)
        for (index, name), buffer in buffers.items():
            self._add(name, self._chosen(group, index, name), buffer)
        for index, (kept, *_) in enumerate(given):
            for name, arrays in kept.items():
                self._add(name, group.numbers(index), arrays)
        return carry, (caches, given)

    def stacked(self) -> dict[str, jax.Array]:
        """Returns taps by name, with a leading axis: all layers with the tap, or the chosen ones in the given order."""
        return {name: self._in_order(name, parts) for name, parts in self.parts.items()}

    def _add(self, name: str, numbers: Sequence[int], arrays: jax.Array) -> None:
        self.parts.setdefault(name, []).append((numbers, arrays))

    def _chosen(self, group: Group, index: int, name: str) -> list[int]:
        """Returns the layers at one index of a pattern whose tap is kept; empty if it is kept of all of them."""
        tap, numbers = self.taps.kept(name), tuple(group.numbers(index))
        assert tap is not None
        return [number for number in numbers if number in (tap.layers or ())] if tap.share(numbers) == "some" else []

    def _one_by_one(self, turn: Turn) -> Turn:
        def keeping(carry: Any, inputs: Any, *before: Any) -> tuple[Any, tuple[Any, Any]]:
            carry, (caches, given) = turn(carry, inputs, *before)
            for number, (kept, *_) in zip(inputs[-1], given, strict=True):
                for name, value in kept.items():
                    self._add(name, (int(number),), value[None])
            return carry, (caches, [({}, *rest) for _, *rest in given])

        return keeping

    def _buffers(self, group: Group, turn: Turn, carry: Any, inputs: Any) -> dict[tuple[int, str], jax.Array]:
        """Returns zeros for the chosen layers at each index of the pattern, by the index and the name of the tap."""
        indices = range(len(group.pattern))
        names = [tap.name for tap in self.taps.keep if not isinstance(tap, str)]
        chosen = {(index, name): self._chosen(group, index, name) for index in indices for name in names}
        if not any(chosen.values()):
            return {}
        first = jax.tree.map(lambda a: a[0], inputs)
        _, (_, given) = jax.eval_shape(turn, carry, first)
        kept = {(index, name): shape for index, (some, *_) in enumerate(given) for name, shape in some.items()}
        return {at: jnp.zeros((len(chosen[at]), *x.shape), x.dtype) for at, x in kept.items() if chosen[at]}

    def _into_buffers(self, group: Group, turn: Turn) -> Turn:
        def keeping(carry: Any, inputs: Any) -> tuple[Any, tuple[Any, Any]]:
            carry, buffers = carry
            carry, (caches, given) = turn(carry, inputs)
            after, whole = dict(buffers), []
            for index, (kept, *rest) in enumerate(given):
                for name in [name for name in kept if (index, name) in buffers]:
                    chosen = jnp.asarray(self._chosen(group, index, name))
                    # The layer's row in the buffer; a layer that is not chosen gets a row past the end and is dropped.
                    row = jnp.min(jnp.where(chosen == inputs[-1][index], jnp.arange(len(chosen)), len(chosen)))
                    after[index, name] = buffers[index, name].at[row].set(kept[name], mode="drop")
                whole.append(({name: x for name, x in kept.items() if (index, name) not in buffers}, *rest))
            return (carry, after), (caches, whole)

        return keeping

    def _in_order(self, name: str, parts: list[tuple[Sequence[int], jax.Array]]) -> jax.Array:
        shapes = sorted({array.shape[1:] for _, array in parts})
        if len(shapes) > 1:
            raise UserError(f"tap {name!r} has shapes {shapes[0]} and {shapes[1]}; keep it of layers with one shape")
        tap = self.taps.kept(name)
        assert tap is not None
        met = [number for numbers, _ in parts for number in numbers]
        order = sorted(met) if tap.layers is None else [number for number in tap.layers if number in met]
        if len(parts) == 1 and met == order:
            return parts[0][1]
        rows = {number: array[row] for numbers, array in parts for row, number in enumerate(numbers)}
        return jnp.stack([rows[number] for number in order])
