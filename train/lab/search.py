"""The learning rate of every variant by successive halving: which runs come next, and the rate that is best.

See `RateSearch` for the method. The record of a variant, in sweep.json, is a list of rounds, each {"steps": its length,
"losses": {rate: loss}}; None is the loss of a rate whose run failed or diverged.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import UserError
from train.experiment import Experiment
from train.lab.ablation import RateSearch
from train.lab.knobs import step_knob

Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run of the search: a rate for a number of steps.

    Attributes:
      rate: as text, which is also its key in the record.
      steps: the length.
      settings: both as settings.
    """

    rate: str
    steps: int
    settings: tuple[str, ...]


def rates_of(search: RateSearch, experiment: Experiment) -> list[str]:
    """The rates of the first round, increasing, each with three digits."""
    return [f"{experiment.schedule.peak * factor:.3g}" for factor in sorted(search.factors)]


def lengths_of(search: RateSearch, experiment: Experiment) -> list[int]:
    """The lengths of the rounds in steps."""
    return [max(1, round(share * experiment.training.num_steps)) for share in search.lengths]


def trials(search: RateSearch, experiment: Experiment, rounds: Sequence[Round]) -> list[Trial]:
    """The runs of the next round, given those that are done; none at the end."""
    lengths = lengths_of(search, experiment)
    if len(rounds) >= len(lengths):
        return []
    steps = lengths[len(rounds)]
    rates = rates_of(search, experiment) if not rounds else _kept(search, rounds[-1])
    return [Trial(rate, steps, (*rate_settings(experiment, rate), *_length(experiment, steps))) for rate in rates]


def _kept(search: RateSearch, last: Round) -> list[str]:
    ranked = sorted(last["losses"], key=lambda rate: _or_infinity(last["losses"][rate]))
    return sorted(ranked[: max(1, math.ceil(len(ranked) * search.keep))], key=float)


def rate_settings(experiment: Experiment, rate: str) -> tuple[str, ...]:
    """The settings of a peak rate; the rate at the end changes in proportion."""
    final, peak = getattr(experiment.schedule, "final", 0.0), experiment.schedule.peak
    ends = [f"schedule.final={final * float(rate) / peak:.3g}"] if final else []
    return (f"schedule.peak={rate}", *ends)


def _length(experiment: Experiment, steps: int) -> tuple[str, ...]:
    return () if steps == experiment.training.num_steps else step_knob(experiment).settings(steps)


def best_rate(rounds: Sequence[Round]) -> str:
    """The rate with the lowest loss in the last round. Raises UserError when no run of that round has a loss."""
    losses: Mapping[str, float | None] = rounds[-1]["losses"]
    best = min(losses, key=lambda rate: _or_infinity(losses[rate]))
    if math.isinf(_or_infinity(losses[best])):
        listed = ", ".join(losses)
        raise UserError(
            f"the search of the learning rate: every run failed or diverged, at the rates {listed}; give search other "
            "factors, or the variant another schedule.peak, and look at the logs in searches/"
        )
    return best


def summary(search: RateSearch, experiment: Experiment, rounds: Sequence[Round]) -> dict[str, Any]:
    """The record of a finished search: the best rate, all rounds, and how many runs it took.

    "at_edge" says that the best rate is the lowest or the highest of all, so that one beyond may be better.
    """
    best, rates = best_rate(rounds), rates_of(search, experiment)
    return {
        "field": "schedule.peak",
        "rate": float(best),
        "at_edge": best in (rates[0], rates[-1]),
        "runs": sum(len(one["losses"]) for one in rounds),
        "rounds": list(rounds),
    }


def _or_infinity(loss: float | None) -> float:
    return loss if loss is not None and math.isfinite(loss) else math.inf
