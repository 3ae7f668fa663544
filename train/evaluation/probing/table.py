"""The numbers of probes in words, for the terminal and the page."""

import math
from collections.abc import Iterator

from train.evaluation.probes.interface import Findings
from train.evaluation.probing.results import ProbeResults
from train.terminal.formatting import escape_unprintable, format_number

_ERROR = "_standard_error"


def number_rows(found: Findings) -> Iterator[tuple[str, str, str]]:
    """Yields name, value and standard error of each number."""
    for name, value in found.numbers.items():
        if not name.endswith(_ERROR):
            error = found.numbers.get(name + _ERROR, math.nan)
            shown = "" if math.isnan(error) else _format(name, error)
            yield name.replace("_", " "), _format(name, value), shown


def baseline_rows(found: Findings) -> Iterator[tuple[str, str]]:
    """Yields name and loss of each baseline."""
    for name, value in found.baselines.items():
        yield f"loss of: {name}", format_number(value)


def _format(name: str, value: float) -> str:
    return f"{value:.1%}" if name.startswith("accuracy") else format_number(value)


def table(results: ProbeResults) -> str:
    """All probes as lines for the terminal."""
    about = f"{results.num_sequences} sequences of each probe, seed {results.seed}"
    lines = [f"{escape_unprintable(results.run)}, step {results.step}; {about}"]
    for name, probe, found in results.entries:
        rows = [*number_rows(found), *((words, value, "") for words, value in baseline_rows(found))]
        width = max(len(row[0]) for row in rows)
        lines += ["", f"{name}: {probe}"]
        lines += [f"  {a:<{width}}  {b:>10}" + (f"  +- {c}" if c else "") for a, b, c in rows]
    return "\n".join(lines)
