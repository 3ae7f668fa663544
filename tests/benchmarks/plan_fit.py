"""The fit of the planner's constants to published speeds, and its cross-validation.

    python -m tests.benchmarks.plan_accuracy pod_speeds.csv --fit

The fit minimises the logarithm of predicted by published seconds (a soft L1 loss, so that one odd row counts little),
and keeps every constant near its first guess: a row counts as uncertain by 10%, a guess by a third. Where few rows say
anything about a constant it stays at the guess.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares

from tests.benchmarks.published_jobs import Row
from train.parallel.planner.efficiency import GUESS, Efficiency
from train.parallel.planner.loads import Loads, loads_of
from train.parallel.planner.step_time import time_of

ROW_SPREAD, GUESS_SPREAD = 0.10, 0.33  # of logarithms
WIDE_GUESSES = {"dispatch": 1.0, "attention_tpu": 0.5, "attention_gpu": 0.5}  # about which little is known
Item = tuple[Row, Loads]


def items_of(rows: Sequence[Row]) -> list[Item]:
    """The rows with their loads, which do not depend on the constants."""
    return [(row, loads_of(row.job)) for row in rows]


def flatten(constants: Efficiency) -> dict[str, float]:
    """Constants by name; those of a family by "matmul.v4"."""
    values = dataclasses.asdict(constants)
    families = {f"matmul.{name}": value for name, value in values.pop("matmul").items()}
    return families | values


def unflatten(values: dict[str, float]) -> Efficiency:
    """Inverts `flatten`."""
    families = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("matmul.")}
    return Efficiency(matmul=families, **{name: value for name, value in values.items() if "." not in name})


def predicted(item: Item, constants: Efficiency) -> float:
    """The predicted seconds of a step."""
    row, loads = item
    return time_of(loads, row.job.cluster.chip, row.job.cluster.slices, constants).total


def log_errors(items: Sequence[Item], constants: Efficiency) -> np.ndarray:
    """The logarithms of predicted by published seconds."""
    return np.array([math.log(predicted(item, constants) / item[0].seconds) for item in items])


def fit(items: Sequence[Item]) -> Efficiency:
    """Fits all constants."""
    guess = flatten(GUESS)
    names, center = list(guess), np.log(list(guess.values()))

    spread = np.array([WIDE_GUESSES.get(name, GUESS_SPREAD) for name in names])

    def residuals(x: np.ndarray) -> np.ndarray:
        constants = unflatten(dict(zip(names, np.exp(x), strict=True)))
        distance = log_errors(items, constants) / ROW_SPREAD
        robust = np.sign(distance) * np.sqrt(2 * (np.sqrt(1 + distance**2) - 1))  # squared: the soft L1 loss
        return np.concatenate([robust, (x - center) / spread])

    highest = np.array([0.0 if name not in ("traffic", "dispatch") and not name.startswith("attention") else 2.0 for name in names])
    found = least_squares(residuals, np.minimum(center, highest - 1e-3), bounds=(center - 3, highest), diff_step=1e-4)
    return unflatten(dict(zip(names, map(float, np.exp(found.x)), strict=True)))


def cross_validate(items: Sequence[Item], group: Callable[[Row], str]) -> np.ndarray:
    """The logarithm of predicted by published seconds of each row, by constants fitted without the rows of its group."""
    errors = np.zeros(len(items))
    groups = [group(row) for row, _ in items]
    for name in sorted(set(groups)):
        inside = [i for i, other in enumerate(groups) if other == name]
        constants = fit([item for i, item in enumerate(items) if i not in inside])
        errors[inside] = log_errors([items[i] for i in inside], constants)
    return errors


def project(row: Row) -> str:
    """The repository and folder of a row's source, without file and commit."""
    return "/".join(row.source.split("@")[0].split("/")[:2]).split(" ")[0]
