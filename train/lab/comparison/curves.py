"""The losses of two runs against steps, tokens and seconds."""

import dataclasses
import itertools

import numpy as np

from train.report.run import RunData, smooth

AXES = ("steps", "tokens", "seconds")
_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Curve:
    """A loss at some steps, smoothed, and the tokens and seconds of these steps (NaN where they are not known).

    Attributes:
      steps, tokens, seconds: where each value was measured, ascending.
      values: the values.
      smoothed: `train.report.run.smooth` of the values.
    """

    steps: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    smoothed: np.ndarray

    def axis(self, name: str) -> np.ndarray:
        """One of `AXES`."""
        x: np.ndarray = getattr(self, name)
        return x

    def reach(self, value: float) -> dict[str, float] | None:
        """Steps, tokens and seconds at which the smoothed loss is first at most a value; None if it never is.

        Between two points the loss is taken to be a straight line.
        """
        below = np.flatnonzero(self.smoothed <= value)
        if not len(below):
            return None
        first = int(below[0])
        before = max(first - 1, 0)
        drop = self.smoothed[before] - self.smoothed[first]
        share = (self.smoothed[before] - value) / drop if drop else 1.0  # the first point is its own neighbour
        return {name: float((1 - share) * self.axis(name)[before] + share * self.axis(name)[first]) for name in AXES}


@dataclasses.dataclass(frozen=True)
class CurvePair:
    """The same curve of two runs.

    Attributes:
      name: what it shows, such as "training loss".
      a, b: the curves.
    """

    name: str
    a: Curve
    b: Curve

    def rows(self) -> list[tuple[int, float, float]]:
        """The step and both smoothed values at common steps, some of them, spread over the runs."""
        common = np.intersect1d(self.a.steps, self.b.steps)
        chosen = common[np.unique(np.linspace(0, len(common) - 1, min(len(common), _ROWS)).round().astype(int))]
        values = [curve.smoothed[np.searchsorted(curve.steps, chosen)] for curve in (self.a, self.b)]
        return [(int(step), float(a), float(b)) for step, a, b in zip(chosen, *values, strict=True)]

    def reached(self) -> tuple[float, dict[str, float], dict[str, float]] | None:
        """The higher of the two final smoothed losses, and where each run reached it first; None without a curve."""
        if not len(self.a.values) or not len(self.b.values):
            return None
        loss = max(float(self.a.smoothed[-1]), float(self.b.smoothed[-1]))
        a, b = self.a.reach(loss), self.b.reach(loss)
        return None if a is None or b is None else (loss, a, b)


def curve_pairs(a: RunData, b: RunData, per_token: bool) -> list[CurvePair]:
    """The curves that both runs have: losses per token, or bits per byte where their tokenizers differ.

    Args:
      a, b: the runs.
      per_token: whether their tokens are the same, so that losses per token can be compared.
    """
    wanted = [("validation bits per byte", "bits_per_byte", "eval")]
    if per_token:
        wanted = [("training loss", "loss", "train"), ("validation loss", "loss", "eval")]
    pairs = [CurvePair(words, *(curve(run, name, kind) for run in (a, b))) for words, name, kind in wanted]
    return [pair for pair in pairs if len(pair.a.values) and len(pair.b.values)]


def curve(run: RunData, name: str, kind: str) -> Curve:
    """A metric of a run, without values that are not finite; only training losses are smoothed."""
    series = run.metric(name, kind).finite()
    smoothed = smooth(smooth(series.values)) if kind == "train" and len(series) > 20 else series.values
    tokens = run.metric("tokens")
    return Curve(
        series.steps,
        _interpolate(series.steps, tokens.steps, tokens.values),
        _interpolate(series.steps, *training_times(run)),
        series.values,
        smoothed,
    )


def training_times(run: RunData) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the seconds of training until their end over all sessions; `seconds` begins at 0 in each session."""
    timed = [line for line in run.throughput if isinstance(line.get("seconds"), int | float)]
    before, total, seconds = 0.0, 0.0, []
    for earlier, line in itertools.pairwise([None, *timed]):
        assert line is not None
        if earlier is not None and earlier.get("session") != line.get("session"):
            before = total
        total = before + float(line["seconds"])
        seconds.append(total)
    return np.array([line["step"] for line in timed], np.int64), np.array(seconds, np.float64)


def _interpolate(at: np.ndarray, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at some steps, on straight lines between those known; NaN outside of them."""
    if not len(steps):
        return np.full(len(at), np.nan)
    return np.interp(at, np.concatenate([[0], steps]), np.concatenate([[0.0], values]), right=np.nan)
