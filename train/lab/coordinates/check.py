"""The coordinate check: whether activations keep their size when a model becomes wider or deeper.

Yang et al. 2022, "Tensor Programs V", appendix D.1: under muP the entries of every activation keep their size after a
few steps; under the standard parametrisation they grow with width, and a rate that is good for a narrow model breaks
a wide one. The size is fitted as size ~ width^slope: a slope near 0 is flat.

In width every kind is judged but the outputs of single sublayers, which the stream sums up, and the logits before
training, which muP lets shrink. In depth the last layer is judged: it has seen all layers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.options.field_marks import resized
from model.options.tree import find_problems
from model.parameters.parametrization import NO_GROWTH, CompleteP, MuP, Standard
from train.experiment import Experiment
from train.lab.coordinates.measure import LOGITS, Measured, measure

Axis = Literal["width", "depth"]
Wider = Literal["heads", "head_dim"]
Say = Callable[[str], None]
# The largest absolute slope that is called flat. Narrow models, and few layers, are not at the limit yet: under muP and
# CompleteP the steepest judged slope of small models is up to 0.25, under the standard one it is 1.4 to 2.1.
# A matrix whose rate or deviation has the wrong power of m shows as a slope of a half or more.
FLAT = 0.35
NOT_JUDGED = ("mixer_output", "ffn_output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One kind of activation against width or depth.

    Attributes:
      kind: the tap, or "logits".
      when: "after" the steps, or the "change" since the start.
      sizes: for each width or depth the root mean square in the last layer, the geometric mean over seeds.
      slope: of log size against log width or depth, the mean over seeds.
      spread: the standard deviation of the slope over seeds; NaN for one seed.
      judged: whether the verdict depends on it.
    """

    kind: str
    when: Literal["after", "change"]
    sizes: tuple[float, ...]
    slope: float
    spread: float
    judged: bool

    @property
    def flat(self) -> bool:
        """Whether the size does not depend on width or depth."""
        return abs(self.slope) <= FLAT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The curves of one parametrisation along one axis.

    Attributes:
      axis: the axis.
      parametrization: the name of its class.
      sizes: the widths or the depths.
      losses: before the first and after the last step, for each of them, the mean over seeds.
      curves: the curves.
    """

    axis: Axis
    parametrization: str
    sizes: tuple[int, ...]
    losses: tuple[tuple[float, float], ...]
    curves: tuple[Curve, ...]

    @property
    def flat(self) -> bool:
        """Whether all judged curves are flat."""
        return all(curve.flat for curve in self.curves if curve.judged)

    @property
    def steepest(self) -> Curve:
        """The judged curve with the largest absolute slope."""
        return max((curve for curve in self.curves if curve.judged), key=lambda curve: abs(curve.slope))

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        worst = self.steepest
        what = f"steepest: {worst.kind} {worst.when}, slope {worst.slope:+.2f}"
        return f"flat in {self.axis} ({what})" if self.flat else f"NOT flat in {self.axis} ({what})"


def check(
    experiment: Experiment,
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    steps: int = 10,
    seeds: Sequence[int] = (0,),
    rate: float | None = None,
    rows: int = 4,
    length: int | None = None,
    say: Say = lambda line: None,
) -> list[Sweep]:
    """Measures an experiment's parametrisation and the standard one, or one to compare with if it is the standard one.

    Args:
      experiment: the experiment; its model is made wider in all proportions, or deeper.
      widths, depths: the sizes, at least two of one of them.
      steps: the number of updates before activations are measured again.
      seeds: of the initial parameters.
      rate: the learning rate; None for the peak of the experiment's schedule.
      rows, length: the shape of the batch; the length is the context's, at most 64, if None.
      say: is told of each model that is measured.

    Raises:
      UserError: for fewer than two sizes, and sizes that the model cannot have.
    """
    axes: dict[Axis, Sequence[int]] = {"width": sorted(set(widths)), "depth": sorted(set(depths))}
    axes = {axis: sizes for axis, sizes in axes.items() if sizes}
    for axis, sizes in axes.items():
        if len(sizes) < 2 or sizes[0] < 1:
            given = ",".join(map(str, sizes))
            raise UserError(f"--{axis}s={given}: a slope needs at least two different sizes above 0")
    if not axes:
        raise UserError("no sizes to compare: give --widths=64,128,256, or --depths=2,4,8, or both")
    if not seeds:
        raise UserError("--seeds: at least one seed is needed")
    # A model of each size before the first is measured: mistakes end the command at once.
    compared = list(_compared(experiment))
    wider: Wider = next((one.wider for one in compared if isinstance(one, MuP)), "heads")
    planned = [
        (axis, parametrization, [_sized(experiment, parametrization, axis, size, wider) for size in sizes])
        for axis, sizes in axes.items()
        for parametrization in compared
    ]
    rate = experiment.schedule.peak if rate is None else rate
    length = min(experiment.model.context_length, 64) if length is None else length
    settings: dict[str, Any] = {"steps": steps, "rate": rate, "seeds": seeds, "rows": rows, "length": length}
    found, known = [], {}
    for axis, parametrization, experiments in planned:
        name, points = type(parametrization).__name__, []
        for size, one in zip(axes[axis], experiments, strict=True):
            if (model := _standard_if_base(one.model)) not in known:
                known[model] = list(measure(_with_model(one, model), **settings))
            points.append(known[model])
            say(f"{name}, {axis} {size}: loss {points[-1][0].losses[0]:.3f} to {points[-1][0].losses[1]:.3f}")
        found.append(_sweep(axis, name, axes[axis], points))
    return found


def _compared(experiment: Experiment) -> Iterator[Standard]:
    """Yields the experiment's parametrisation, and the one to compare with: the standard one, or CompleteP or MuP."""
    own, model = experiment.model.parametrization, experiment.model
    yield own
    if isinstance(own, MuP):
        yield Standard()
        return
    wider: Wider
    for wider in ("heads", "head_dim"):
        for other in (
            CompleteP(base_width=model.width, base_layers=model.num_layers, wider=wider),
            MuP(base_width=model.width, wider=wider),
        ):
            if not find_problems(_with_model(experiment, dataclasses.replace(model, parametrization=other))):
                yield other
                return


def _sized(experiment: Experiment, parametrization: Standard, axis: Axis, size: int, wider: Wider) -> Experiment:
    """The experiment at a width or a depth. Raises UserError for a size that its model cannot have."""
    model = dataclasses.replace(experiment.model, parametrization=parametrization)
    if axis == "depth":
        model = dataclasses.replace(model, num_layers=size)
    else:
        model = resized(model, Fraction(size, model.width), wider)
    sized = _with_model(experiment, model)
    if problems := find_problems(sized):
        raise UserError(f"{axis} {size}: this model cannot be built:\n  " + "\n  ".join(problems))
    return sized


def _standard_if_base(model: ModelConfig) -> ModelConfig:
    """A base model with the standard parametrisation, which is the same model; any other as it is."""
    return dataclasses.replace(model, parametrization=Standard()) if model.growth == NO_GROWTH else model


def _with_model(experiment: Experiment, model: ModelConfig) -> Experiment:
    """The experiment with another model."""
    return dataclasses.replace(experiment, model=model)


def _sweep(axis: Axis, name: str, sizes: Sequence[int], points: Sequence[Sequence[Measured]]) -> Sweep:
    """The curves of one parametrisation from the models of all sizes and seeds."""
    kinds = [kind for kind in points[0][0].sizes if all(kind in one.sizes for some in points for one in some)]
    curves = []
    for kind in kinds:
        for when in ("after", "change"):
            values = np.array([[getattr(one.sizes[kind], when)[-1] for one in some] for some in points])
            judged = kind not in NOT_JUDGED and (kind, when) != (LOGITS, "after")
            curves.append(_curve(kind, when, sizes, values, judged))
    losses = tuple(tuple(np.mean([one.losses for one in some], axis=0).tolist()) for some in points)
    return Sweep(axis=axis, parametrization=name, sizes=tuple(sizes), losses=losses, curves=tuple(curves))


def _curve(kind: str, when: Any, sizes: Sequence[int], values: np.ndarray, judged: bool) -> Curve:
    """A curve from the values (sizes, seeds). A value that is 0 or not finite makes the slope infinite."""
    sound = np.all(np.isfinite(values) & (values > 0))
    logs = np.log(np.where(np.isfinite(values) & (values > 0), values, 1.0))
    slopes = np.polyfit(np.log(sizes), logs, 1)[0] if sound else np.full(values.shape[1], math.inf)
    return Curve(
        kind=kind,
        when=when,
        sizes=tuple(np.exp(logs.mean(axis=1)).tolist() if sound else values.mean(axis=1).tolist()),
        slope=float(slopes.mean()),
        spread=float(slopes.std(ddof=1)) if len(slopes) > 1 and sound else math.nan,
        judged=bool(judged),
    )
