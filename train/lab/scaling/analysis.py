"""All fits of one set of runs side by side: approaches 1 to 3, variable projection, and the bias of approach 2."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from train.lab.scaling.envelope import Curve, Envelope, fit_envelope
from train.lab.scaling.isoflop import IsoFlop, bias, fit_isoflop
from train.lab.scaling.law import DRAWS, Interval, Law, Resampling, fit_law
from train.lab.scaling.points import Points
from train.lab.scaling.projection import fit_projection
from train.lab.scaling.surface import NAMES, PowerLaw, Surface
from train.terminal.formatting import format_count

_OPTIMUM = ("parameters", "tokens", "loss")
_FAR = 10.0  # times the largest C of the runs: beyond, an optimum is far from anything measured
_MANY_EPOCHS = (
    4.0  # Muennighoff et al. 2023, "Scaling Data-Constrained Language Models": up to these as good as new text
)


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """A run that took no part in the fit: its predicted loss, and the measured one when it is finished."""

    name: str
    parameters: float
    tokens: float
    flops: float
    predicted: Interval
    level: float
    measured: float | None = None

    @property
    def verdict(self) -> str:
        """The comparison in words."""
        if self.measured is None:
            return "not trained yet"
        error = self.measured / self.predicted.value - 1
        inside = "inside" if self.predicted.holds(self.measured) else "outside"
        return f"measured {self.measured:.4f}, {error:+.2%} of the prediction, {inside} its {self.level:.0%} interval"


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """The fits of one set of runs.

    Attributes:
      names: the names of the runs.
      law: approach 3, with intervals.
      projection: the surface by variable projection.
      isoflop: approach 2.
      envelope: approach 1; None without training curves.
      at: the C at which optima are stated, rising.
      level: of intervals.
      biases: D* of approach 2 over that of a surface without noise, at each of `at`; None where it has no D*.
      held_out: runs that were predicted.
      epochs: the most passes over the text in a run; None where that is not known.
    """

    names: list[str]
    law: Law
    projection: Surface
    isoflop: IsoFlop
    envelope: Envelope | None
    at: list[float]
    level: float
    biases: list[float | None]
    held_out: list[HeldOut]
    epochs: float | None

    def approaches(self) -> Iterator[tuple[str, PowerLaw, PowerLaw]]:
        """N*(C) and D*(C) of approaches 1 and 2 where they have them, with their names."""
        envelope, isoflop = self.envelope, self.isoflop
        if envelope is not None and envelope.parameters is not None and envelope.tokens is not None:
            yield "1, envelope of curves", envelope.parameters, envelope.tokens
        if isoflop.parameters is not None and isoflop.tokens is not None:
            yield "2, IsoFLOP parabolas", isoflop.parameters, isoflop.tokens

    def warnings(self) -> Iterator[str]:
        """Sentences about results that should not be trusted."""
        law, points = self.law, self.law.points
        for name, least in (("alpha", 0.02), ("beta", 0.02), ("E", 0.01)):
            if getattr(law.surface, name) < least:
                yield f"{name} is {getattr(law.surface, name):.3g}: these runs do not show where the loss ends"
        wide = [name for name in ("alpha", "beta") if _ratio(law.interval(name, self.level)) > 2]
        if wide:
            yield f"the interval of {' and '.join(wide)} spans more than a factor of 2: more runs are needed"
        if edges := sum(not one.is_inside(points) for one in self.isoflop.parabolas):
            yield (
                f"{edges} of {len(self.isoflop.parabolas)} budgets have no lowest loss among their sizes: shift these, "
                "with --tokens_per_parameter"
            )
        sizes, largest = points.parameters, points.flops.max()
        for flops in self.at:
            best = law.surface.optimum(flops, law.compute)[0]
            if flops <= largest and not sizes.min() <= best <= sizes.max():
                yield f"the optimum at {flops:.3g} FLOPs, {format_count(best)} parameters, is beyond all trained sizes"
            if flops > _FAR * largest:
                yield f"{flops:.3g} FLOPs are {flops / largest:,.0f} times the largest run: the law may not hold there"
        if self.epochs is not None and self.epochs > _MANY_EPOCHS:
            yield (
                f"a run read its text {self.epochs:.1f} times; repeated text is worth less than new text beyond about "
                f"{_MANY_EPOCHS:.0f} times, which this law leaves out"
            )

    def as_json(self) -> dict[str, Any]:
        """The content of fit.json; a number that is not finite is None."""
        law = self.law
        numbers = {
            name: {**law.interval(name, self.level)._asdict(), "standard_error": law.standard_error(name)}
            for name in (*NAMES, "a", "b")
        }
        optima = [
            {"flops": flops} | {name: x._asdict() for name, x in zip(_OPTIMUM, found, strict=True)}
            for flops, found in ((flops, law.optimum(flops, self.level)) for flops in self.at)
        ]
        content = {
            "law": "L(N, D) = E + A / N^alpha + B / D^beta; N* grows as C^a, D* as C^b",
            "runs": len(law.points),
            "method": "Huber loss of log L, delta 1e-3 (approach 3)",
            "resampling": law.resampling,
            "draws": len(law.noise),
            "level": self.level,
            "numbers": numbers,
            "compute": law.compute._asdict(),
            "variable_projection": self.projection.as_dict(),
            "approaches": {
                name: {"parameters": n._asdict(), "tokens": d._asdict()} for name, n, d in self.approaches()
            },
            "approach_2_tokens_over_true": dict(zip(map(str, self.at), self.biases, strict=True)),
            "optima": optima,
            "held_out": [dataclasses.asdict(one) | {"predicted": one.predicted._asdict()} for one in self.held_out],
            "warnings": list(self.warnings()),
        }
        finite: dict[str, Any] = _finite(content)
        return finite


def analyse(
    points: Points,
    *,
    names: Sequence[str] = (),
    curves: Sequence[Curve] = (),
    at: Sequence[float] = (),
    level: float = 0.95,
    draws: int = DRAWS,
    resampling: Resampling | None = None,
    held_out: Sequence[HeldOut] = (),
    epochs: float | None = None,
) -> Analysis:
    """Makes all fits. `at` are the C at which optima are stated; the largest of the runs and ten times it if empty.

    Raises UserError for too few runs, sizes or budgets.
    """
    law = fit_law(points, draws, resampling)
    largest = float(points.flops.max())
    budgets = sorted(at) or [largest, 10 * largest]
    return Analysis(
        names=list(names) or [f"run {i + 1}" for i in range(len(points))],
        law=law,
        projection=fit_projection(points),
        isoflop=fit_isoflop(points, law.compute),
        envelope=fit_envelope(curves, law.compute) if curves else None,
        at=budgets,
        level=level,
        biases=[bias(points, law.surface, law.compute, flops) for flops in budgets],
        held_out=list(held_out),
        epochs=epochs,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [_finite(inside) for inside in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ratio(interval: Interval) -> float:
    return interval.high / interval.low if interval.low > 0 else np.inf
