"""The results of a coordinate check as text and as JSON."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from train.lab.coordinates.check import FLAT, Sweep


def table(sweep: Sweep) -> str:
    """The sizes and slopes of a sweep, aligned; the verdict comes first."""
    head = ["", "", *(f"{sweep.axis} {size}" for size in sweep.sizes), "slope", ""]
    rows = [head]
    for curve in sweep.curves:
        spread = "" if math.isnan(curve.spread) else f" ± {curve.spread:.2f}"
        note = "not judged" if not curve.judged else "" if curve.flat else "not flat"
        sizes = [f"{size:.3g}" for size in curve.sizes]
        rows.append([curve.kind, curve.when, *sizes, f"{curve.slope:+.2f}{spread}", note])
    rows.append(["loss", "after", *(f"{last:.3f}" for _, last in sweep.losses), "", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(size) if i in (0, 1, len(row) - 1) else cell.rjust(size) for i, (cell, size) in pairs)
        for row in rows
        for pairs in [list(enumerate(zip(row, widths, strict=True)))]
    ]
    title = f"{sweep.parametrization}: {sweep.verdict}"
    return "\n".join([title, *("  " + line.rstrip() for line in lines)])


def as_json(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The results as JSON. A slope that is not finite is None."""
    return {
        "flat_below": FLAT,
        "sweeps": [
            dataclasses.asdict(sweep)
            | {
                "flat": sweep.flat,
                "verdict": sweep.verdict,
                "curves": [
                    dataclasses.asdict(curve)
                    | {"flat": curve.flat, "slope": _finite(curve.slope), "spread": _finite(curve.spread)}
                    for curve in sweep.curves
                ],
            }
            for sweep in sweeps
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
