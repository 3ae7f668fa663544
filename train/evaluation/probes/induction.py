"""Copying by induction: a random sequence and its repetition (A B ... A -> B).

Olsson et al. 2022, "In-context Learning and Induction Heads": the loss on the second half falls when heads form that
find the earlier occurrence of a token and copy the token after it.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from train.evaluation.probes.interface import (
    Curve,
    Findings,
    Reader,
    Sequences,
    Task,
    at_least,
    by_column,
    measured,
    shifted,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Induction(Task):
    """Random symbols, then the same symbols again. The second half counts, from its second symbol on.

    Attributes:
      num_symbols_drawn: the symbols to draw from; none occurs twice in a half if there are enough of them.
      length: T, an odd number: both halves have (T + 1) / 2 symbols.
      shortest: None repeats the first half once. With a number each sequence has a period of its own, from this up to
        that of a half, and repeats to its end; it counts from its second symbol on. A head can then not find the
        earlier occurrence by its distance, which a single layer could learn.
    """

    num_symbols_drawn: int = 64
    length: int = 127
    shortest: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from at_least(self, num_symbols_drawn=2, length=3)
        if self.length % 2 == 0:
            yield "length", f"must be odd, for two equal halves of length + 1 symbols, got {self.length}"
        if self.shortest is not None and not 1 <= self.shortest <= self.half:
            yield "shortest", f"must be from 1 to {self.half}, the symbols of a half, or None, got {self.shortest}"

    @property
    def num_symbols(self) -> int:
        """The symbols to draw from."""
        return self.num_symbols_drawn

    @property
    def half(self) -> int:
        """The symbols of a half."""
        return (self.length + 1) // 2

    @classmethod
    def sized(cls, reader: Reader) -> "Induction":
        """See `Task`."""
        length = min(255, reader.length)
        return cls(num_symbols_drawn=min(4096, reader.num_ids), length=length - (length % 2 == 0))

    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """See `Prepared`."""
        repeats = self.half > self.num_symbols_drawn
        half = np.stack([draw.choice(self.num_symbols_drawn, self.half, replace=repeats) for draw in draws])
        if self.shortest is not None:
            periods_N1 = np.array([[draw.integers(self.shortest, self.half + 1)] for draw in draws])
            places = np.arange(self.length + 1) % periods_N1
            return shifted(np.take_along_axis(half, places, axis=1), np.arange(self.length) >= periods_N1)
        weights = np.broadcast_to(np.arange(self.length) >= self.half, (len(draws), self.length))
        return shifted(np.concatenate([half, half], axis=1), weights)

    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """See `Prepared`; `first_half_loss` is the loss where nothing can be copied yet."""
        numbers = measured(made, nll_NT, hits_NT)
        first = self.half if self.shortest is None else self.shortest
        numbers["first_half_loss"] = float(nll_NT[:, : first - 1].mean()) if first > 1 else math.nan
        columns = range(first, self.length)
        lines = {"loss": nll_NT, "accuracy": hits_NT.astype(np.float64)}
        means = {name: by_column(values[:, first:], made.weights[:, first:]) for name, values in lines.items()}
        x = tuple(column - first + 2 for column in columns)
        guess = math.log(self.num_symbols_drawn)
        pictures = (
            Curve(
                title="Loss in the repetition",
                x_label="position in the second half",
                y_label="nats",
                x=x,
                lines={"model": means["loss"], "uniform": (guess,) * len(x)},
            ),
            Curve(
                title="Accuracy in the repetition",
                x_label="position in the second half",
                y_label="share of symbols",
                x=x,
                lines={"model": means["accuracy"]},
            ),
        )
        return Findings(numbers=numbers, baselines={"uniform": guess}, pictures=pictures)
