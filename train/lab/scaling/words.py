"""The fits as text for a terminal: aligned tables, then warnings."""

from collections.abc import Iterator, Sequence

from train.lab.scaling.analysis import Analysis
from train.lab.scaling.law import Interval
from train.lab.scaling.surface import NAMES
from train.terminal.formatting import format_count

BIAS = (
    "Approach 2 is biased: along a budget the loss is no parabola of log N unless alpha = beta and the sizes are "
    "centred on the optimum."
)


def describe(analysis: Analysis) -> str:
    """The fits of one set of runs."""
    law, level = analysis.law, f"{analysis.level:.0%}"
    how = {"points": "resampled runs", "noise": "drawn noise"}[law.resampling]
    lines = [
        f"L(N, D) = E + A / N^alpha + B / D^beta, {len(law.points)} runs; intervals of {level} from {len(law.noise):,} "
        f"fits of {how}",
        "",
        *table(
            [
                ("", "Huber, log L", f"{level} interval", "std. error", "projection"),
                *(_number_row(analysis, name) for name in (*NAMES, "a", "b")),
            ]
        ),
        f"  N* grows as C^a and D* as C^b, with C = {law.compute.coefficient:.3g} N^{law.compute.exponent:.3f} D",
        "",
        *table([("compute-optimal at", "N*", "", "D*", "", "D*/N*", "loss", ""), *_optima(analysis)]),
        "",
        BIAS,
    ]
    for flops, ratio in zip(analysis.at, analysis.biases, strict=True):
        if ratio is not None:
            lines.append(
                f"  On this surface, with these runs but no noise, its D* at {flops:.3g} is {ratio:.3f} of the true one"
            )
    if analysis.held_out:
        lines += ["", "held out, predicted before it was trained:"]
        for one in analysis.held_out:
            lines.append(f"  {one.name}: {one.predicted.value:.4f} {between(one.predicted, '.4f')}; {one.verdict}")
    lines += [f"WARNING: {line}" for line in analysis.warnings()]
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def rounded(value: float, digits: int = 4) -> str:
    """A number with some significant digits, zeros among them: 1.840."""
    return f"{value:#.{digits}g}".removesuffix(".")


def between(interval: Interval, form: str | None = None) -> str:
    """The bounds of an interval; in four digits without a form."""
    low, high = (rounded(x) if form is None else f"{x:{form}}" for x in (interval.low, interval.high))
    return f"[{low}, {high}]"


def counts_between(interval: Interval) -> str:
    """The bounds of an interval of counts."""
    return f"[{format_count(interval.low)}, {format_count(interval.high)}]"


def _number_row(analysis: Analysis, name: str) -> tuple[str, ...]:
    interval = analysis.law.interval(name, analysis.level)
    error, other = analysis.law.standard_error(name), analysis.projection.as_dict().get(name)
    cells = name, rounded(interval.value), between(interval), rounded(error, 3)
    return *cells, "" if other is None else rounded(other)


def _optima(analysis: Analysis) -> Iterator[tuple[str, ...]]:
    for flops in analysis.at:
        n, d, loss = analysis.law.optimum(flops, analysis.level)
        yield (
            f"C = {flops:.3g}, approach 3",
            format_count(n.value),
            counts_between(n),
            format_count(d.value),
            counts_between(d),
            f"{d.value / n.value:.3g}",
            f"{loss.value:.4f}",
            between(loss, ".4f"),
        )
        for name, of_n, of_d in analysis.approaches():
            best, tokens = float(of_n(flops)), float(of_d(flops))
            yield f"  approach {name}", format_count(best), "", format_count(tokens), "", f"{tokens / best:.3g}", "", ""
