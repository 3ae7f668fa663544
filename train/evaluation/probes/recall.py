"""Associative recall of many keys: pairs of keys and values, then the keys again, each of which recalls its value.

Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models", section 3 (MQAR).
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from train.evaluation.probes.interface import Curve, Findings, Reader, Sequences, Task, at_least, measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(Task):
    """k pairs (key, value), then every key once more among random symbols; the value after a repeated key counts.

    Symbols below `num_keys` are keys, the following `num_values` are values; the filler is drawn from the values. A key
    is asked for after a gap that is short more often than long, with density proportional to gap^(power - 1).

    Attributes:
      num_pairs: k.
      num_keys, num_values: the symbols of each kind.
      length: T, at least 4 k.
      power: the exponent of the gaps.
    """

    num_pairs: int = 8
    num_keys: int = 64
    num_values: int = 64
    length: int = 64
    power: float = 0.01

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from at_least(self, num_pairs=1, num_values=self.num_pairs, num_keys=self.num_pairs)
        if self.length < 4 * self.num_pairs:
            yield "length", f"must be at least 4 * num_pairs = {4 * self.num_pairs}, got {self.length}"
        if not 0 < self.power < math.inf:
            yield "power", f"must be above 0, got {self.power}"

    @property
    def num_symbols(self) -> int:
        """Keys and values."""
        return self.num_keys + self.num_values

    @classmethod
    def sized(cls, reader: Reader) -> "Recall":
        """See `Task`."""
        length, each = min(256, reader.length), max(2, min(2048, reader.num_ids // 2))
        return cls(num_pairs=max(1, min(16, length // 8, each)), num_keys=each, num_values=each, length=length)

    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """See `Prepared`."""
        shape, k = (len(draws), self.length), self.num_pairs
        tokens, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        slots = (self.length - 2 * k) // 2
        gaps = np.arange(1, slots + 1) ** (self.power - 1.0)
        for n, draw in enumerate(draws):
            keys = draw.choice(self.num_keys, k, replace=False)
            values = self.num_keys + draw.choice(self.num_values, k, replace=False)
            # The last target comes after the last token.
            symbols = self.num_keys + draw.integers(self.num_values, size=self.length + 1)
            symbols[: 2 * k : 2], symbols[1 : 2 * k : 2] = keys, values
            asked = 2 * k + 2 * draw.choice(slots, k, replace=False, p=gaps / gaps.sum())
            symbols[asked], symbols[asked + 1] = keys, values
            tokens[n], targets[n], weights[n, asked] = symbols[:-1], symbols[1:], 1
        return Sequences(tokens, targets, weights)

    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """See `Prepared`."""
        k = self.num_pairs
        rows, asked = np.nonzero(made.weights)
        stored = np.argmax(made.tokens[rows, : 2 * k : 2] == made.tokens[rows, asked][:, None], axis=1) * 2
        gaps, hits = asked - stored, hits_NT[rows, asked]
        edges = np.unique(np.linspace(1, self.length, 9).astype(int))
        bins = np.digitize(gaps, edges[1:-1])
        shares = tuple(float(hits[bins == b].mean()) if (bins == b).any() else None for b in range(len(edges) - 1))
        curve = Curve(
            title="Accuracy by distance",
            x_label="tokens between a key and its repetition",
            y_label="share of values",
            x=tuple(float(a + b) / 2 for a, b in itertools.pairwise(edges)),
            lines={"model": shares, "any stored value": (1 / k,) * len(shares)},
        )
        baselines = {"any stored value": math.log(k), "uniform": math.log(self.num_values)}
        return Findings(numbers=measured(made, nll_NT, hits_NT), baselines=baselines, pictures=(curve,))
