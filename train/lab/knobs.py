"""The parts of an experiment that may be changed so that a quantity equals that of another experiment.

A knob has sizes, whole numbers in order, and gives the settings that set it to a size. A quantity grows with the size.
"""

import bisect
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from model.errors import UserError
from model.feedforward.mlp import MLP, Gated
from model.options.tree import walk
from train.config_file import with_overrides
from train.experiment import Experiment
from train.lab.ablation import Knob
from train.schedules import WarmupStableDecay

_RANGE = 8  # a size is changed by at most this factor
Settings = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A knob of one experiment.

    Attributes:
      sizes: its possible sizes, increasing.
      settings: the settings for a size.
      present: its present size.
    """

    sizes: Sequence[int]
    settings: Callable[[int], Settings]
    present: int


@dataclasses.dataclass(frozen=True)
class Found:
    """The size nearest to a target, with its settings and its quantity."""

    settings: Settings
    quantity: float
    experiment: Experiment


def nearest(experiment: Experiment, knob: Sizes, quantity: Callable[[Experiment], float], target: float) -> Found:
    """The settings of the size whose quantity is nearest to the target, between two sizes that come closer.

    A size at which the experiment has problems is left out. Raises UserError if there is no possible size.
    """

    @functools.cache
    def at(index: int) -> Found | None:
        settings = knob.settings(knob.sizes[index])
        try:
            changed = with_overrides(experiment, settings)
            return Found(settings, quantity(changed), changed)
        except UserError:
            return None

    def beside(index: int, step: int) -> tuple[int, Found] | None:
        """The first possible size from an index on, in one direction."""
        while 0 <= index < len(knob.sizes):
            if (found := at(index)) is not None:
                return index, found
            index += step
        return None

    low, high = beside(0, 1), beside(len(knob.sizes) - 1, -1)
    if low is None or high is None:
        raise UserError("no other size is possible here")
    guess = bisect.bisect_left(knob.sizes, knob.present)
    for turn in range(64):
        if high[0] - low[0] <= 1 or not low[1].quantity < target < high[1].quantity:
            break
        middle = beside(min(max(guess, low[0] + 1), high[0] - 1), 1)
        assert middle is not None  # `high` is possible
        if middle[0] >= high[0]:  # nothing is possible from the guess to `high`
            middle = beside(min(max(guess, low[0] + 1), high[0] - 1) - 1, -1)
            assert middle is not None
            if middle[0] <= low[0]:
                break
        low, high = (middle, high) if middle[1].quantity < target else (low, middle)
        # Most quantities grow in a straight line; a half now and then bounds the number of turns for the others.
        share = (target - low[1].quantity) / max(high[1].quantity - low[1].quantity, 1e-9)
        line = low[0] + share * (high[0] - low[0])
        guess = round(line) if turn % 3 != 2 else (low[0] + high[0]) // 2
    return min((low[1], high[1]), key=lambda found: abs(found.quantity - target))


def step_knob(experiment: Experiment) -> Sizes:
    """training.num_steps, with the phases of the schedule in proportion."""
    steps, schedule = experiment.training.num_steps, experiment.schedule

    def settings(size: int) -> Settings:
        phases = [("warmup_steps", schedule.warmup_steps)]
        if isinstance(schedule, WarmupStableDecay):
            phases.append(("decay_steps", schedule.decay_steps))
        scaled = [(name, round(count * size / steps)) for name, count in phases]
        least = {"decay_steps": 1, "warmup_steps": 0}
        return (
            f"training.num_steps={size}",
            *(
                f"schedule.{name}={max(least[name], count)}"
                for name, count in scaled
                if count != getattr(schedule, name)
            ),
        )

    return Sizes(range(1, 1000 * steps), settings, steps)


def layer_knob(experiment: Experiment) -> Sizes:
    """model.num_layers."""
    layers = experiment.model.num_layers
    return Sizes(range(1, _RANGE * layers + 1), lambda size: (f"model.num_layers={size}",), layers)


def ffn_knob(experiment: Experiment, multiple: int = 1, fixed: Collection[str] = ()) -> Sizes:
    """The widths of all feed-forward layers and experts, in proportion; they are multiples of a number.

    Raises UserError for a model without any but those whose path is in `fixed`.
    """
    widths = _ffn_widths(experiment, fixed)
    if not widths:
        raise UserError("the model has no feed-forward whose width could be changed; give hold another `by`")
    present = next(iter(widths.values()))

    def settings(size: int) -> Settings:
        sizes = {
            path: max(multiple, round(width * size / present / multiple) * multiple) for path, width in widths.items()
        }
        return tuple(f"{path}.width={size}" for path, size in sizes.items())

    return Sizes(range(multiple, _RANGE * present + 1, multiple), settings, present)


def mixer_knob(experiment: Experiment) -> Sizes:
    """The head width of all mixers: the units of a recurrent layer. Raises UserError for a model without any."""
    model = experiment.model
    widths = {
        path: option.head_dim or max(1, model.width // option.num_heads)
        for path, option in walk(model, "model")
        if hasattr(option, "num_heads") and hasattr(option, "head_dim")
    }
    if not widths:
        raise UserError("the model has no mixer with heads or units; give hold another `by`")
    present = next(iter(widths.values()))

    def settings(size: int) -> Settings:
        return tuple(f"{path}.head_dim={max(1, round(width * size / present))}" for path, width in widths.items())

    return Sizes(range(1, _RANGE * present + 1), settings, present)


def width_knobs(experiment: Experiment, fixed: Collection[str] = ()) -> list[Sizes]:
    """The model width, with the feed-forward in proportion: heads keep their width, or else their number.

    The head width is even, for rotary positions. Fields whose path is in `fixed` stay.
    """
    model = experiment.model
    heads = {path: option for path, option in walk(model, "model") if hasattr(option, "num_heads")}
    fixed_width = math.lcm(1, *(model.width // option.num_heads for option in heads.values() if _follows(option)))
    fixed_number = math.lcm(1, *(2 * option.num_heads for option in heads.values() if _follows(option)))
    steps = [("heads", fixed_width), ("head width", fixed_number)] if any(map(_follows, heads.values())) else [("", 2)]
    return [_width_knob(experiment, heads if kind == "heads" else {}, step, fixed) for kind, step in steps]


def _width_knob(experiment: Experiment, heads: dict[str, Any], step: int, fixed: Collection[str]) -> Sizes:
    """Widths that are multiples of `step`; the numbers of `heads` change in proportion."""
    present, widths = experiment.model.width, _ffn_widths(experiment, fixed)

    def settings(size: int) -> Settings:
        share = size / present
        changed = [f"model.width={size}"]
        changed += [f"{path}.width={max(1, _rounded(width * share, width))}" for path, width in widths.items()]
        for path, option in heads.items():
            if _follows(option):
                changed.append(f"{path}.num_heads={round(option.num_heads * share)}")
                if getattr(option, "num_kv_heads", None) is not None:
                    changed.append(f"{path}.num_kv_heads={_kv_heads(option, round(option.num_heads * share))}")
        return tuple(changed)

    return Sizes(range(step, _RANGE * present + 1, step), settings, present)


def _kv_heads(option: Any, num_heads: int) -> int:
    """The divisor of a number of heads that leaves about as many query heads to a key head as the option has."""
    wanted = num_heads * option.num_kv_heads / option.num_heads
    return min((k for k in range(1, num_heads + 1) if num_heads % k == 0), key=lambda k: abs(math.log(k / wanted)))


def _follows(option: Any) -> bool:
    """Whether the width of heads is the share of the model width."""
    return getattr(option, "head_dim", 0) is None


def _ffn_widths(experiment: Experiment, fixed: Collection[str] = ()) -> dict[str, int]:
    options = {path: option for path, option in walk(experiment.model, "model") if isinstance(option, MLP | Gated)}
    return {path: option.width for path, option in options.items() if f"{path}.width" not in fixed}


def _rounded(width: float, before: int) -> int:
    """A width, as a multiple of 8 if the width before is one."""
    return round(width / 8) * 8 if before % 8 == 0 else round(width)


def solve(
    experiment: Experiment,
    knob: Knob,
    quantity: Callable[[Experiment], float],
    target: float,
    fixed: Collection[str] = (),
) -> Found:
    """The change of a part of an experiment that brings a quantity nearest to a target.

    For "width" it is the width whose heads are as wide as before if that is near enough, within 1%; else the nearest
    width with as many heads, and a feed-forward that makes up for the rest. Fields whose path is in `fixed` are what
    the variant is about, and stay. Raises UserError if nothing is possible.
    """
    own = {"steps": "training.num_steps", "width": "model.width", "layers": "model.num_layers"}.get(knob)
    if own in fixed:
        raise UserError(f"it sets {own} itself, which a change of {knob} would undo; give hold another `by`")
    if knob == "width":
        return _solve_width(experiment, quantity, target, fixed)
    if knob == "ffn":
        if all(width % 8 == 0 for width in _ffn_widths(experiment, fixed).values()):  # devices multiply these faster
            coarse = nearest(experiment, ffn_knob(experiment, 8, fixed), quantity, target)
            if abs(coarse.quantity / target - 1) <= 0.005:
                return coarse
        return nearest(experiment, ffn_knob(experiment, 1, fixed), quantity, target)
    makers = {"steps": step_knob, "layers": layer_knob, "mixer": mixer_knob}
    return nearest(experiment, makers[knob](experiment), quantity, target)


def _solve_width(
    experiment: Experiment, quantity: Callable[[Experiment], float], target: float, fixed: Collection[str]
) -> Found:
    found: list[Found] = []
    for sizes in width_knobs(experiment, fixed):
        with contextlib.suppress(UserError):
            found.append(nearest(experiment, sizes, quantity, target))
            if abs(found[-1].quantity / target - 1) <= 0.01:
                return found[-1]
    if not found:
        raise UserError("no other width is possible here")
    best = min(found, key=lambda one: abs(one.quantity - target))
    if not _ffn_widths(best.experiment, fixed):
        return best
    finer = nearest(best.experiment, ffn_knob(best.experiment, 1, fixed), quantity, target)
    changed = {text.partition("=")[0]: text for text in (*best.settings, *finer.settings)}
    return dataclasses.replace(finer, settings=tuple(changed.values()))
