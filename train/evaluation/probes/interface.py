"""The interface of a probe: the sequences that it makes, and the findings from a model's losses on them."""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.errors import UserError

# The seeds of sequences that are trained on, held out, and measured after training differ in this number.
SPLITS = {"train": 0, "validation": 1, "probe": 2}


class Sequences(NamedTuple):
    """Sequences of one length.

    Attributes:
      tokens: the inputs, int32 (N, T).
      targets: the token that follows each, int32 (N, T).
      weights: 1 where the target counts, else 0; float32 (N, T).
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A picture with lines over common x values; None where a line has no point."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    lines: dict[str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A picture with a value from 0 to 1 in each cell; `values[y][x]`, None for an empty cell."""

    title: str
    x_label: str
    y_label: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The result of a probe.

    Attributes:
      numbers: measured values by name; `loss` (nats per counted target) and `accuracy` (the share of counted targets
        that the model ranks first) are among them, with `_standard_error` over sequences.
      baselines: the loss of known strategies on the same sequences, in nats per counted target.
      pictures: curves and grids.
    """

    numbers: dict[str, float]
    baselines: dict[str, float]
    pictures: tuple[Curve | Grid, ...]


class Reader(NamedTuple):
    """The facts of a model that decide how a probe is put to it.

    Attributes:
      vocab_size, context_length: those of the model.
      begin, end: the ids that begin and end its documents; None for none.
      encode: from text to ids; None for a model whose tokens are not text.
      trained_on: the task that made its training data; None for text.
    """

    vocab_size: int
    context_length: int
    begin: int | None = None
    end: int | None = None
    encode: Callable[[str], np.ndarray] | None = None
    trained_on: Any = None

    @property
    def length(self) -> int:
        """The longest sequence, with room for the mark that begins it."""
        return self.context_length - (self.begin is not None)

    def ids(self, num_symbols: int) -> np.ndarray:
        """The ids that stand for the symbols of a task, int32 (symbols,): the symbols themselves after training on it.

        For a model of text they are drawn at random from its vocabulary, without its marks; always the same ones.
        """
        if self.trained_on is not None:
            return np.arange(num_symbols, dtype=np.int32)
        known = np.setdiff1d(np.arange(self.vocab_size), [i for i in (self.begin, self.end) if i is not None])
        return np.random.default_rng(0).permutation(known)[:num_symbols].astype(np.int32)

    @property
    def num_ids(self) -> int:
        """The number of ids that symbols can have."""
        marks = set() if self.trained_on is not None else {self.begin, self.end} - {None}
        return self.vocab_size - len(marks)


class Prepared(abc.ABC):
    """A probe as one model reads it. Its sequences hold symbols, to be replaced by ids, or ids if there are none.

    Attributes:
      num_symbols: symbols are numbers from 0 up to this; None if the sequences hold ids.
    """

    @property
    @abc.abstractmethod
    def num_symbols(self) -> int | None:
        """See the class."""

    @abc.abstractmethod
    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """A sequence for each generator, a function of it alone."""

    @abc.abstractmethod
    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """The findings of a model.

        Args:
          made: the result of `sequences`.
          nll_NT: the model's -log p of each target, in nats.
          hits_NT: whether it ranks the target first.
        """


class Probe(abc.ABC):
    """An option that describes a probe."""

    @classmethod
    @abc.abstractmethod
    def for_model(cls, reader: Reader) -> "Probe":
        """The probe in a size that suits a model; the task itself for a model that was trained on it."""

    @abc.abstractmethod
    def prepare(self, reader: Reader) -> Prepared:
        """The probe as a model reads it. Raises UserError when it does not fit the model."""


class Task(Probe, Prepared):
    """A probe of symbols, which needs no text; a run can be trained on it."""

    @property
    @abc.abstractmethod
    def num_symbols(self) -> int:
        """The number of its symbols, and the least vocabulary of a model."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """T, the tokens of its sequences."""

    @classmethod
    def for_model(cls, reader: Reader) -> "Task":
        """See `Probe`."""
        return reader.trained_on if isinstance(reader.trained_on, cls) else cls.sized(reader)

    @classmethod
    @abc.abstractmethod
    def sized(cls, reader: Reader) -> "Task":
        """The task in a size that suits a model that was not trained on it."""

    def for_split(self, split: str) -> "Task":
        """The task of a split of training data; another one where the splits have different sequences by rule."""
        return self

    def prepare(self, reader: Reader) -> "Task":
        """See `Probe`."""
        for name, needed, available in (
            ("a vocabulary", self.num_symbols, reader.num_ids),
            ("a context", self.length, reader.length),
        ):
            if needed > available:
                raise UserError(
                    f"{type(self).__name__} needs {name} of {needed}, but that of the model is {available} (without "
                    "its marks); make the task smaller"
                )
        return self


def generators(seed: int, split: str, numbers: Sequence[int]) -> list[np.random.Generator]:
    """The generators of the sequences with these numbers in a split."""
    return [np.random.default_rng((seed, SPLITS[split], n)) for n in numbers]


def shifted(symbols: np.ndarray, weights: np.ndarray) -> Sequences:
    """Sequences of T inputs from T + 1 symbols (N, T + 1); `weights` (N, T) are those of the targets."""
    return Sequences(symbols[:, :-1].astype(np.int32), symbols[:, 1:].astype(np.int32), weights.astype(np.float32))


def mean_over(values_NT: np.ndarray, weights_NT: np.ndarray) -> tuple[float, float]:
    """The mean of the counted values, and its standard error over sequences (Cochran 1977, section 2.11)."""
    sums, counts = (values_NT * weights_NT).sum(1), weights_NT.sum(1)
    total, number = float(counts.sum()), len(counts)
    value = float(sums.sum()) / total
    if number < 2:
        return value, math.nan
    spread = float(((sums - value * counts) ** 2).sum())
    return value, math.sqrt(number / (number - 1) * spread) / total


def measured(made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> dict[str, float]:
    """Loss and accuracy over the counted targets, with their standard errors."""
    found = {}
    for name, values in (("loss", nll_NT), ("accuracy", hits_NT.astype(np.float64))):
        found[name], found[f"{name}_standard_error"] = mean_over(values, made.weights)
    return found


def by_column(values_NT: np.ndarray, weights_NT: np.ndarray) -> tuple[float | None, ...]:
    """The mean of the counted values of each column; None for a column without any."""
    counts = weights_NT.sum(0)
    sums = (values_NT * weights_NT).sum(0)
    return tuple(float(s / c) if c else None for s, c in zip(sums, counts, strict=True))


def at_least(option: Any, **minimums: int) -> Iterator[tuple[str, str]]:
    """Yields the fields of an option that are under their minimum."""
    for name, minimum in minimums.items():
        if getattr(option, name) < minimum:
            yield name, f"must be at least {minimum}, got {getattr(option, name)}"
