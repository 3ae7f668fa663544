"""Many variants at once, as the `variants` of an ablation: all combinations of values, or random draws.

    variants=grid({"schedule.peak": (1e-3, 3e-3), "optimizer.weight_decay": (0.0, 0.1)})
    variants=grid({"model.position": {"alibi": ALiBi(), "none": NoPositions()}})
    variants=draws({"schedule.peak": LogUniform(1e-4, 1e-2), "optimizer.b2": Choice((0.95, 0.99))}, count=16)

The results are dictionaries: `grid(...) | {"other": "model.width=96"}` adds a variant of another kind.
"""

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model.errors import UserError

_MAX_VARIANTS = 10_000


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Numbers between two bounds, all equally likely."""

    low: float
    high: float

    def draw(self, source: random.Random) -> float:
        """One number, with four significant digits."""
        return _rounded(source.uniform(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """Positive numbers between two bounds whose logarithms are all equally likely."""

    low: float
    high: float

    def draw(self, source: random.Random) -> float:
        """One number, with four significant digits."""
        return _rounded(math.exp(source.uniform(math.log(self.low), math.log(self.high))))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely."""

    values: Sequence[Any]

    def draw(self, source: random.Random) -> Any:
        """One value."""
        return source.choice(self.values)


Distribution = Uniform | LogUniform | Choice


def grid(fields: Mapping[str, Iterable[Any] | Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of the values of some fields, each variant named after its values.

    `fields` has the values of each path; values by name where their own words would not tell them apart. Raises
    UserError for two combinations with one name.
    """
    if not fields or not all(fields.values()):
        raise UserError(f"grid: expected values for every field, got {dict(fields)!r}")
    named = [list(_named(path, values)) for path, values in fields.items()]
    if math.prod(map(len, named)) > _MAX_VARIANTS:
        raise UserError(f"grid: {math.prod(map(len, named)):,} combinations; expected at most {_MAX_VARIANTS:,}")
    variants: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*named):
        name = "-".join(word for word, _ in combination)
        if name in variants:
            raise UserError(f"grid: two combinations are named {name!r}; give values by name: {{'name': value}}")
        variants[name] = dict(zip(fields, (value for _, value in combination), strict=True))
    return variants


def draws(fields: Mapping[str, Distribution], count: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """`count` variants, each with a draw for every field; the same draws for the same fields and seed.

    Raises UserError for bounds that hold no number, and for no fields.
    """
    if not fields or not 1 <= count <= _MAX_VARIANTS:
        raise UserError(f"draws: expected fields and a count from 1 to {_MAX_VARIANTS:,}, got {len(fields)}, {count}")
    for path, option in fields.items():
        if isinstance(option, Choice):
            if not option.values:
                raise UserError(f"draws: {path}: no values to choose from")
        elif not option.low < option.high or (isinstance(option, LogUniform) and option.low <= 0):
            least = " above 0" if isinstance(option, LogUniform) else ""
            raise UserError(f"draws: {path}: expected a lower bound{least} below the upper one, got {option}")
    source, digits = random.Random(seed), len(str(count - 1))
    return {
        f"draw{number:0{digits}}": {path: option.draw(source) for path, option in fields.items()}
        for number in range(count)
    }


def _named(path: str, values: Iterable[Any] | Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The values of a field with words for a name: "width96" of model.width=96, "ALiBi" of model.position=ALiBi()."""
    if isinstance(values, Mapping):
        yield from values.items()
        return
    field = path.rpartition(".")[2]
    for value in values:
        if dataclasses.is_dataclass(value):
            yield type(value).__name__, value
        else:
            yield f"{field}{re.sub(r'[^A-Za-z0-9_.-]+', '_', str(value))}", value


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
