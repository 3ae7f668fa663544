"""Needle in a haystack: a key and its value at some depth of a long filler, asked for at the end.

Liu et al. 2023, "Lost in the Middle: How Language Models Use Long Contexts": models find the value at the beginning and
at the end of a context better than in its middle. The grid is depth x length.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from train.evaluation.probes.interface import Findings, Grid, Reader, Sequences, Task, at_least, measured

NEEDLE = 3  # tokens: the mark, the key, the value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needle(Task):
    """Filler with (mark, key, value) at a depth and, at other places, of other keys; then (mark, key) -> value.

    Symbol 0 is the mark; then come `num_keys` keys, `num_values` values, and `num_filler` symbols of filler. Each
    sequence draws its length and the depth of its needle.

    Attributes:
      lengths: the tokens of a sequence, each at least 5 + 3 * distractors.
      num_depths: depths from 0 (the needle comes first) to 1 (it comes last, before the question).
      distractors: further needles with other keys and values.
      num_keys, num_values, num_filler: the symbols of each kind.
    """

    lengths: tuple[int, ...] = (32, 64, 128)
    num_depths: int = 5
    distractors: int = 2
    num_keys: int = 16
    num_values: int = 16
    num_filler: int = 31

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from at_least(self, num_depths=2, distractors=0, num_filler=1)
        yield from at_least(self, num_keys=1 + self.distractors, num_values=2)
        least = NEEDLE * (1 + self.distractors) + 2
        if not self.lengths or min(self.lengths) < least:
            yield "lengths", f"expected numbers of at least {least}, for needles and question, got {self.lengths}"

    @property
    def length(self) -> int:
        """The longest; shorter sequences are padded with tokens that do not count."""
        return max(self.lengths)

    @property
    def num_symbols(self) -> int:
        """The mark, keys, values and filler."""
        return 1 + self.num_keys + self.num_values + self.num_filler

    @classmethod
    def sized(cls, reader: Reader) -> "Needle":
        """See `Task`."""
        lengths = tuple(sorted({max(11, reader.length * share // 4) for share in (1, 2, 3, 4)}))
        each = max(3, min(256, (reader.num_ids - 1) // 4))
        filler = max(1, min(1024, reader.num_ids - 1 - 2 * each))
        return cls(lengths=lengths, num_keys=each, num_values=each, num_filler=filler)

    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """See `Prepared`."""
        shape = (len(draws), self.length)
        made = Sequences(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32))
        for n, draw in enumerate(draws):
            length = int(draw.choice(self.lengths))
            symbols = self._sequence(draw, length, int(draw.integers(self.num_depths)))
            made.tokens[n, :length], made.targets[n, :length] = symbols[:-1], symbols[1:]
            made.weights[n, length - 1] = 1
        return made

    def _sequence(self, draw: np.random.Generator, length: int, depth: int) -> np.ndarray:
        """The `length` tokens, and the value after them."""
        first_value, first_filler = 1 + self.num_keys, 1 + self.num_keys + self.num_values
        count = 1 + self.distractors
        keys = 1 + draw.choice(self.num_keys, count, replace=False)
        values = first_value + draw.choice(self.num_values, count, replace=self.num_values < count)
        filler = first_filler + draw.integers(self.num_filler, size=length - 2 - NEEDLE * count)
        # Needle 0 has a given place among the filler, the others any; a needle stands before the filler of its number.
        places = np.concatenate([[self._place(depth, len(filler))], draw.integers(len(filler) + 1, size=count - 1)])
        parts: list[np.ndarray] = []
        start = 0
        for needle in np.argsort(places, kind="stable"):
            parts += [filler[start : places[needle]], np.array([0, keys[needle], values[needle]])]
            start = int(places[needle])
        return np.concatenate([*parts, filler[start:], [0, keys[0], values[0]]])

    def _place(self, depth: int, filler: int) -> int:
        return round(filler * depth / (self.num_depths - 1))

    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """See `Prepared`; a needle's depth is its place among the places that it can have, to the nearest depth."""
        rows = np.arange(len(made.tokens))
        asked = np.argmax(made.weights, axis=1)
        keys = made.tokens[rows, asked]
        # The key's first occurrence is that in the needle.
        begins = np.argmax(made.tokens == keys[:, None], axis=1) - 1
        depths = np.rint(begins / (asked + 1 - 2 - NEEDLE) * (self.num_depths - 1)).astype(int)
        hits = hits_NT[rows, asked]
        cells = [[(depths == d) & (asked + 1 == length) for length in self.lengths] for d in range(self.num_depths)]
        grid = Grid(
            title="Accuracy by depth and length",
            x_label="length, tokens",
            y_label="depth",
            x=tuple(str(length) for length in self.lengths),
            y=tuple(f"{d / (self.num_depths - 1):.0%}" for d in range(self.num_depths)),
            values=tuple(tuple(float(hits[cell].mean()) if cell.any() else None for cell in row) for row in cells),
        )
        baselines = {"any value in the text": math.log(1 + self.distractors), "uniform": math.log(self.num_values)}
        return Findings(numbers=measured(made, nll_NT, hits_NT), baselines=baselines, pictures=(grid,))
