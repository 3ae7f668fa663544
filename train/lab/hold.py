"""Makes a quantity of a variant equal to that of the base by a change of its size or its length, and says which."""

import dataclasses
from collections.abc import Callable, Collection

from model.cost import count_parameters, training_flops_per_token
from model.errors import UserError
from train.experiment import Experiment
from train.lab.ablation import Hold
from train.lab.knobs import Found, Settings, solve
from train.state import StateConfig
from train.terminal.formatting import format_count, format_duration

_UNITS = {
    "tokens": "tokens",
    "flops": "model FLOPs",
    "params": "parameters",
    "active_params": "active parameters",
    "time": "of steps",
}


@dataclasses.dataclass(frozen=True)
class Match:
    """A variant that matches its base: the settings that it needs for that, none if it did already, and a sentence."""

    settings: Settings
    note: str


def tokens_of(experiment: Experiment) -> int:
    """The tokens that a whole run reads, padding among them."""
    return experiment.data.rows_before(experiment.training.num_steps) * experiment.data.sequence_length


def flops_of(experiment: Experiment) -> float:
    """The model FLOPs of a whole run (model/cost.py)."""
    specs = StateConfig.of(experiment).specs
    return tokens_of(experiment) * training_flops_per_token(experiment.model, experiment.data.sequence_length, specs)


def measure_of(equal: str, step_seconds: float | None) -> Callable[[Experiment], float]:
    """The function from an experiment to a quantity; `step_seconds` is the time of its step, for "time"."""
    if equal == "time":
        if step_seconds is None:
            raise UserError("hold='time' needs step times that are measured; launch.sweep measures them")
        return lambda experiment: step_seconds * experiment.training.num_steps
    return {
        "tokens": tokens_of,
        "flops": flops_of,
        "params": lambda experiment: count_parameters(experiment.model).total,
        "active_params": lambda experiment: count_parameters(experiment.model).active,
    }[equal]


def match_base(
    base: Experiment,
    variant: Experiment,
    hold: Hold,
    base_seconds: float | None = None,
    seconds: float | None = None,
    fixed: Collection[str] = (),
) -> Match:
    """The change that gives the variant the quantity of the base.

    Args:
      base: the base.
      variant: the variant with its own changes.
      hold: the quantity, the part to change and the tolerance.
      base_seconds: the measured step time of the base, for "time".
      seconds: that of the variant.
      fixed: the paths of the fields that the variant itself sets, which stay.

    Raises:
      UserError: no size or length is within the tolerance; it gives the closest. And for the time of a batch ramp.
    """
    if hold.equal == "time" and any(one.data.ramp is not None for one in (base, variant)):
        raise UserError("hold='time' measures one step, and data.ramp makes steps differ; hold 'tokens' or 'flops'")
    target = measure_of(hold.equal, base_seconds)(base)
    quantity = measure_of(hold.equal, seconds)
    before = quantity(variant)
    if abs(before / target - 1) <= hold.tolerance:
        return Match((), f"{_said(hold, before)}, {_share(before, target)}: nothing changed")
    found: Found = solve(variant, hold.knob, quantity, target, fixed)
    if abs(found.quantity / target - 1) > hold.tolerance:
        raise UserError(
            f"hold={hold.equal!r}: no value of {hold.knob} brings it within {100 * hold.tolerance:.3g}% of the "
            f"base, which has {_said(hold, target)}; the closest is {', '.join(found.settings)} with "
            f"{_said(hold, found.quantity)}, {_share(found.quantity, target)}. Give hold another `by` "
            "(Hold(equal=..., by=...)), a larger tolerance, or the variant another size"
        )
    changed = ", ".join(found.settings)
    note = f"{changed}: {_said(hold, before)} -> {_said(hold, found.quantity)}, {_share(found.quantity, target)}"
    return Match(found.settings, note)


def _said(hold: Hold, quantity: float) -> str:
    number = format_duration(quantity) if hold.equal == "time" else f"{quantity:,.0f}"
    if hold.equal == "flops":
        number = f"{quantity:.4g}"
    elif hold.equal == "tokens":
        number = format_count(quantity)
    return f"{number} {_UNITS[hold.equal]}"


def _share(quantity: float, target: float) -> str:
    if abs(quantity / target - 1) < 5e-5:
        return "as the base"
    return f"{abs(quantity / target - 1):.2%} {'above' if quantity >= target else 'below'} the base"
