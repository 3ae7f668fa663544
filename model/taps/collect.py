"""Collects kept taps while layers run: of all layers that have the tap, or of chosen layers without holding the others.

In a scan of layers, a tap of all of them is a result of the scan. For a tap of chosen layers, the scan carries a buffer
into which these layers write. Unrolled layers keep their taps one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.layers import Group
from model.taps.request import Taps

# A function that runs every layer of a pattern once: (carry, inputs[, caches]) -> (carry, (caches, outputs)). The last
# of the inputs are the numbers of the layers; `outputs` has a tuple for each index of the pattern, whose first item is
# the kept taps of the layer, by name.
PatternBody = Callable[..., tuple[Any, tuple[Any, Any]]]


class TapCollector:
    """Collects the taps of layers while groups of them run one after another."""

    def __init__(self, taps: Taps) -> None:
        """Args: the taps that the caller asked for."""
        self.taps = taps
        # By name: the numbers of layers, and their taps with a leading axis for these layers.
        self.parts: dict[str, list[tuple[Sequence[int], jax.Array]]] = {}

    def run_group(
        self,
        run: Callable[[PatternBody, Any, Any], Any],
        group: Group,
        body: PatternBody,
        carry: Any,
        inputs: Any,
        scanned: bool,
    ) -> tuple[Any, tuple[Any, Any]]:
        """Runs all repeats of a group with `run`, and removes the kept taps from its result."""
        if not self.taps.keep:
            return run(body, carry, inputs)
        if not scanned:
            return run(self._one_by_one(body), carry, inputs)
        buffers = self._buffers(group, body, carry, inputs)
        (carry, buffers), (caches, outputs) = run(self._into_buffers(group, body), (carry, buffers), inputs)
        for (index, name), buffer in buffers.items():
            self._add(name, self._chosen(group, index, name), buffer)
        for index, (kept, *_) in enumerate(outputs):
            for name, arrays in kept.items():
                self._add(name, group.layer_numbers(index), arrays)
        return carry, (caches, outputs)

    def stacked(self) -> dict[str, jax.Array]:
        """Returns taps by name, with a leading axis: all layers with the tap, or the chosen ones in the given order."""
        return {name: self._in_order(name, parts) for name, parts in self.parts.items()}

    def _add(self, name: str, numbers: Sequence[int], arrays: jax.Array) -> None:
        self.parts.setdefault(name, []).append((numbers, arrays))

    def _chosen(self, group: Group, index: int, name: str) -> list[int]:
        """Returns the layers at one index of a pattern whose tap is kept; empty if it is kept of all of them."""
        tap, numbers = self.taps.kept(name), tuple(group.layer_numbers(index))
        assert tap is not None
        return [number for number in numbers if number in (tap.layers or ())] if tap.overlap(numbers) == "some" else []

    def _one_by_one(self, body: PatternBody) -> PatternBody:
        def collecting_body(carry: Any, inputs: Any, *before: Any) -> tuple[Any, tuple[Any, Any]]:
            carry, (caches, outputs) = body(carry, inputs, *before)
            for number, (kept, *_) in zip(inputs[-1], outputs, strict=True):
                for name, value in kept.items():
                    self._add(name, (int(number),), value[None])
            return carry, (caches, [({}, *rest) for _, *rest in outputs])

        return collecting_body

    def _buffers(self, group: Group, body: PatternBody, carry: Any, inputs: Any) -> dict[tuple[int, str], jax.Array]:
        """Returns zeros for the chosen layers at each index of the pattern, by the index and the name of the tap."""
        indices = range(len(group.pattern))
        names = [tap.name for tap in self.taps.keep if not isinstance(tap, str)]
        chosen = {(index, name): self._chosen(group, index, name) for index in indices for name in names}
        if not any(chosen.values()):
            return {}
        first = jax.tree.map(lambda a: a[0], inputs)
        _, (_, outputs) = jax.eval_shape(body, carry, first)
        kept = {(index, name): shape for index, (taps, *_) in enumerate(outputs) for name, shape in taps.items()}
        return {at: jnp.zeros((len(chosen[at]), *x.shape), x.dtype) for at, x in kept.items() if chosen[at]}

    def _into_buffers(self, group: Group, body: PatternBody) -> PatternBody:
        def collecting_body(carry: Any, inputs: Any) -> tuple[Any, tuple[Any, Any]]:
            carry, buffers = carry
            carry, (caches, outputs) = body(carry, inputs)
            after, stacked_outputs = dict(buffers), []
            for index, (kept, *rest) in enumerate(outputs):
                for name in [name for name in kept if (index, name) in buffers]:
                    chosen = jnp.asarray(self._chosen(group, index, name))
                    # The layer's row in the buffer; a layer that is not chosen gets a row past the end and is dropped.
                    row = jnp.min(jnp.where(chosen == inputs[-1][index], jnp.arange(len(chosen)), len(chosen)))
                    after[index, name] = buffers[index, name].at[row].set(kept[name], mode="drop")
                stacked_outputs.append(({name: x for name, x in kept.items() if (index, name) not in buffers}, *rest))
            return (carry, after), (caches, stacked_outputs)

        return collecting_body

    def _in_order(self, name: str, parts: list[tuple[Sequence[int], jax.Array]]) -> jax.Array:
        shapes = sorted({array.shape[1:] for _, array in parts})
        if len(shapes) > 1:
            raise UserError(f"tap {name!r} has shapes {shapes[0]} and {shapes[1]}; keep it of layers with one shape")
        tap = self.taps.kept(name)
        assert tap is not None
        kept_layers = [number for numbers, _ in parts for number in numbers]
        order = (
            sorted(kept_layers) if tap.layers is None else [number for number in tap.layers if number in kept_layers]
        )
        if len(parts) == 1 and kept_layers == order:
            return parts[0][1]
        rows = {number: array[row] for numbers, array in parts for row, number in enumerate(numbers)}
        return jnp.stack([rows[number] for number in order])
