"""Collects the texts at which units fire most: features of an autoencoder, or entries of a tap."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

BEFORE, AFTER = 24, 12  # tokens of a text beside the one at which the unit fires most
EDGES = np.logspace(-4, 4, 81)  # of the histogram of activations above 0


@dataclasses.dataclass(frozen=True)
class Example:
    """A piece of text.

    Attributes:
      tokens: the ids.
      activations: of the unit at each token.
      peak: the number of the token at which it is largest.
    """

    tokens: np.ndarray
    activations: np.ndarray
    peak: int

    @property
    def largest(self) -> float:
        """The largest activation."""
        return float(self.activations[self.peak])


@dataclasses.dataclass
class Unit:
    """What was seen of a unit.

    Attributes:
      number: its number.
      examples: the texts with the largest activations, largest first, each of another row of a batch.
      fired: the tokens at which it was above 0.
      counts: of activations above 0 in the bins of `EDGES`; those outside of them count at the ends.
    """

    number: int
    examples: list[Example]
    fired: int
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Collected:
    """All units, and the number of tokens that were read."""

    units: list[Unit]
    tokens: int


def collect(
    batches: Iterable[dict[str, np.ndarray]],
    activations: Callable[[dict[str, np.ndarray]], jax.Array],
    numbers: list[int],
    most: int,
    skip: int = 0,
) -> Collected:
    """Reads batches and keeps the best texts of some units.

    Args:
      batches: with tokens, positions and segment_ids, each (B, T).
      activations: of the units at the tokens of a batch, (B, T, units).
      numbers: the units' numbers.
      most: texts to keep for each.
      skip: tokens at the start of documents that do not count.
    """
    units = [Unit(number, [], 0, np.zeros(len(EDGES) - 1, np.int64)) for number in numbers]
    total = 0
    for batch in batches:
        real_BT = (batch["segment_ids"] > 0) & (batch["positions"] >= skip)
        total += int(real_BT.sum())
        x_BTU = np.asarray(activations(batch), np.float32)
        for place, unit in enumerate(units):
            x_BT = np.where(real_BT, x_BTU[..., place], -np.inf)
            above = x_BT[x_BT > 0]
            unit.fired += len(above)
            unit.counts += np.histogram(np.clip(above, EDGES[0], EDGES[-1]), bins=EDGES)[0]
            _add(unit, batch, x_BT, most)
    return Collected(units, total)


def _add(unit: Unit, batch: dict[str, np.ndarray], x_BT: np.ndarray, most: int) -> None:
    least = unit.examples[-1].largest if len(unit.examples) == most else 0.0
    peaks = x_BT.argmax(axis=1)
    largest = x_BT[np.arange(len(peaks)), peaks]
    for row in np.argsort(-largest, kind="stable")[:most]:
        if largest[row] <= least:
            break
        unit.examples.append(_example(batch, x_BT[row], int(row), int(peaks[row])))
    unit.examples.sort(key=lambda each: -each.largest)
    del unit.examples[most:]


def _example(batch: dict[str, np.ndarray], x_T: np.ndarray, row: int, peak: int) -> Example:
    """The tokens around the peak that are in the same document."""
    own = batch["segment_ids"][row] == batch["segment_ids"][row, peak]
    first, last = max(0, peak - BEFORE), min(len(own), peak + AFTER + 1)
    while not own[first]:
        first += 1
    while not own[last - 1]:
        last -= 1
    kept: Any = np.where(np.isfinite(x_T), x_T, 0.0)[first:last]
    return Example(batch["tokens"][row, first:last].copy(), kept, peak - first)
