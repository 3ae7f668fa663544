"""A comparison of two runs as lines for the terminal, and the rows that the page shows too."""

import math
from collections.abc import Iterator, Sequence

from train.lab.comparison.comparison import Comparison
from train.lab.comparison.curves import CurvePair
from train.lab.comparison.divergence import Divergence
from train.lab.comparison.evaluation import PairedMeasure
from train.report.run import run_state
from train.terminal.formatting import (
    escape_unprintable,
    format_count,
    format_counted,
    format_duration,
    format_fixed,
    format_number,
    format_percent,
)

SECTIONS = {"config": "Config", "code": "Code", "data": "Data", "environment": "Environment"}
_WIDTH = 60  # characters of a value in the terminal
Rows = list[list[str]]


def lines(found: Comparison) -> Iterator[str]:
    """Yields the lines of a comparison."""
    for name, run in (("A", found.a), ("B", found.b)):
        yield escape_unprintable(f"{name}  {run.folder}: {', '.join(run_state(run))}")
    for note in found.notes:
        yield escape_unprintable(f"note: {note}")
    for section, title in SECTIONS.items():
        yield from ("", title)
        rows = change_rows(found, section)
        yield from _aligned([["", "A", "B"], *rows]) if rows else ["  no difference"]
    yield from ("", "Where they part", *(f"  {sentence}" for sentence in divergence_sentences(found.divergence)))
    if found.divergence.first:
        yield from _aligned(divergence_rows(found.divergence), right=True)
    for pair in found.curves:
        yield from ("", pair.name[0].upper() + pair.name[1:])
        yield from _aligned(curve_rows(pair), right=True)
        if sentence := reached_sentence(pair):
            yield f"  {sentence}"
    yield from ("", "Last evaluations in their files")
    rows = recorded_rows(found)
    yield from _aligned(rows, right=True) if rows[1:] else ["  none that both have"]
    if found.paired is not None:
        yield from ("", escape_unprintable(f"Both on {found.paired.text}: {paired_sentence(found)}"))
        yield from _aligned(paired_rows(found), right=True)
        yield from (escape_unprintable(f"  note: {note}") for note in found.paired.notes)


def change_rows(found: Comparison, section: str) -> Rows:
    """Name and both values of every difference of a section; a mark at those that can change no result."""
    rows = []
    for change in found.changes:
        if change.section == section:
            mark = " (changes no result)" if change.changes_results is False else ""
            rows.append([change.name + mark, change.a, change.b])
    return rows


def divergence_sentences(found: Divergence) -> Iterator[str]:
    """The place where two runs part, in words."""
    if not found.common_steps:
        yield "they have no logged step in common"
    elif not found.first:
        yield f"nowhere: all {found.common_steps:,} common logged steps are equal, up to {found.last_common_step:,}"
    if found.first:
        before = "; it is the first that both logged"
        if found.last_equal_step is not None:
            before = f"; the last equal one is step {found.last_equal_step:,}"
        yield f"at step {found.first[0].step:,} of {found.common_steps:,} common logged steps{before}"


def divergence_rows(found: Divergence) -> Rows:
    """The first difference of each metric."""
    rows = [["first difference of", "at step", "A", "B", "B - A", "relative"]]
    for item in found.first:
        values = [*(_exact(value) for value in (item.a, item.b)), _signed(item.difference)]
        relative = "-" if item.relative is None else f"{item.relative:+.2e}"
        rows.append([item.metric.replace("_", " "), f"{item.step:,}", *values, relative])
    return rows


def curve_rows(pair: CurvePair) -> Rows:
    """Both values at some common steps."""
    rows = [["step", "A", "B", "B - A"]]
    for step, a, b in pair.rows():
        rows.append([f"{step:,}", format_fixed(a), format_fixed(b), _signed(b - a)])
    return rows if rows[1:] else [["no common step"]]


def reached_sentence(pair: CurvePair) -> str | None:
    """The steps, tokens and time that each run took to the higher of the two final losses, in words."""
    reached = pair.reached()
    if reached is None:
        return None
    loss, a, b = reached
    formats = {"steps": lambda x: f"{x:,.0f}", "tokens": format_count, "seconds": format_duration}
    words = []
    for axis, as_text in formats.items():
        if math.isfinite(a[axis]) and math.isfinite(b[axis]):
            ratio = f" ({b[axis] / a[axis]:.2f}x)" if a[axis] else ""
            words.append(f"{as_text(a[axis])} and {as_text(b[axis])}{'' if axis == 'seconds' else f' {axis}'}{ratio}")
    return f"loss {format_fixed(loss)} is reached by A and B after " + "; ".join(words)


def recorded_rows(found: Comparison) -> Rows:
    """The last evaluations of texts that both runs have; a difference only where the text is the same."""
    rows = [["text", "measure", "A", "B", "B - A", "steps", "same text"]]
    for item in found.recorded:
        steps = f"{item.step_a:,}" if item.step_a == item.step_b else f"{item.step_a:,} and {item.step_b:,}"
        same = {True: "yes", False: "no", None: "not known"}[item.same_text]
        difference = _signed(item.b - item.a) if item.same_text else "-"
        values = [format_fixed(item.a), format_fixed(item.b), difference]
        rows.append([item.text, item.measure.replace("_", " "), *values, steps, same])
    return rows


def paired_sentence(found: Comparison) -> str:
    """The documents and checkpoints of the paired evaluation."""
    paired = found.paired
    assert paired is not None
    count, total = paired.documents
    documents = format_counted(total, "document")
    documents = documents if count == total else f"{count:,} of {documents}"
    return f"{documents}, checkpoints {paired.steps[0]:,} and {paired.steps[1]:,}"


def paired_rows(found: Comparison) -> Rows:
    """The measures of both runs on the same documents, with the interval of their difference."""
    assert found.paired is not None
    return [
        ["measure", "A", "B", "B - A", "interval", "p", ""],
        *(_paired_row(measure) for measure in found.paired.measures),
    ]


def _paired_row(measure: PairedMeasure) -> list[str]:
    values = [measure.measure.replace("_", " "), format_fixed(measure.a), format_fixed(measure.b)]
    difference = measure.difference
    if difference is None:
        return [*values, _signed(measure.b - measure.a), "-", "-", ""]
    interval = f"{difference.low:+.4f} to {difference.high:+.4f}, {format_percent(difference.level)}"
    word = "B is better" if difference.high < 0 else "B is worse" if difference.low > 0 else "no difference is shown"
    word = "equal" if difference.low == difference.high == 0 else word
    return [*values, _signed(difference.mean), interval, f"{difference.p_value:.2g}", word]


def _signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:+.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:+.3g}"


def _exact(value: float | None) -> str:
    return "-" if value is None else format_number(value) if abs(value) >= 1e6 else f"{value:.9g}"


def _aligned(rows: Rows, right: bool = False) -> list[str]:
    """Rows as lines; the first column, and all of texts, are aligned left; numbers right."""
    cut = [[_cut(escape_unprintable(cell)) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in cut) for k in range(len(cut[0]))]
    return ["  " + "  ".join(_cell(row, k, widths, right) for k in range(len(row))).rstrip() for row in cut]


def _cell(row: Sequence[str], column: int, widths: Sequence[int], right: bool) -> str:
    text, width = row[column], widths[column]
    return text.rjust(width) if right and column else text.ljust(width)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
