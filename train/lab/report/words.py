"""The words and numbers of a report: cells of its tables, and how the results came about."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.options.annotations import fields_of, option_classes
from train.experiment import Experiment
from train.lab.report.analysis import LEVEL, Analysis, Row, false_rate
from train.lab.statistics.differences import Difference, paired
from train.lab.statistics.power import POWER
from train.lab.statistics.speedup import Speedup
from train.lab.statistics.verdicts import format_p
from train.terminal.formatting import format_bytes, format_count, format_counted

NONE = "\u2013"
MINUS = "\u2212"
_QUANTITIES = {
    "tokens": "the number of training tokens",
    "flops": "the model FLOPs of the training",
    "params": "the number of parameters",
    "active_params": "the number of active parameters",
    "time": "the time of the training steps",
}
# Fields of data options that cut the same data into other batches, or take them in another order.
_BATCHING = {"batch_size", "ramp", "sequence_length", "packing", "cross_document_attention", "group", "seed"}
_KNOBS = {
    "steps": "steps",
    "width": "the width",
    "ffn": "the feed-forward width",
    "mixer": "the head width",
    "layers": "layers",
}


def decimals(analysis: Analysis) -> int:
    """The decimals of losses and differences: two digits of the smallest deviation, of seeds or of their differences.

    Four if none is known; from three to six.
    """
    found = [row.comparison.difference for row in analysis.rows if row.comparison is not None]
    deviations = [analysis.noise, *(difference.deviation for difference in found if difference is not None)]
    smallest = min((deviation for deviation in deviations if deviation), default=None)
    return 4 if smallest is None else min(6, max(3, 1 - math.floor(math.log10(smallest))))


def number(value: float | None, places: int, signed: bool = False) -> str:
    """A number with a true minus; a dash for None."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not finite"
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", MINUS)


def mean_cell(row: Row, places: int) -> str:
    """The mean over seeds with the deviation: 3.1234 ± 0.0021."""
    if row.deviation is None:
        return number(row.mean, places)
    return f"{number(row.mean, places)} \u00b1 {number(row.deviation, places)}"


def seeds_cell(row: Row) -> str:
    """The number of runs at their end, of those declared, with the states of the others: 2/3 (1 failed)."""
    total, rest = len(row.variant.runs), _states(row)
    return f"{total - len(row.missing)}/{total}" + (f" ({rest})" if rest else "")


def seeds_words(row: Row) -> str:
    """The same in words: 3 seeds; 2 of 3 seeds, 1 failed."""
    total, rest = len(row.variant.runs), _states(row)
    return f"{total - len(row.missing)} of {total} seeds, {rest}" if rest else format_counted(total, "seed")


def _states(row: Row) -> str:
    states: dict[str, int] = {}
    for run in row.missing:
        states[run.state] = states.get(run.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in states.items())


def difference_of(row: Row) -> Difference | None:
    """The difference of a row to the base; None for the base, and before two seeds are done."""
    return None if row.comparison is None else row.comparison.difference


def interval_cell(difference: Difference | None, places: int) -> str:
    """[-0.012, -0.004]; a dash without a difference."""
    if difference is None:
        return NONE
    return f"[{number(difference.low, places, True)}, {number(difference.high, places, True)}]"


def p_cell(row: Row) -> str:
    """The adjusted p-value."""
    found = None if row.comparison is None else row.comparison.adjusted_p
    return NONE if found is None else format_p(found)


def effect_cell(row: Row) -> str:
    """The difference in deviations over seeds."""
    return number(None if row.comparison is None else row.comparison.effect, 1, True)


def verdict_cell(analysis: Analysis, row: Row) -> str:
    """The verdict in words; its p-value has a cell of its own."""
    if row.comparison is None:
        return "the base"
    if analysis.results.alpha is None:
        return "no verdict was asked for"
    found = row.comparison.verdict
    return found.word if found.word in ("better", "worse") else found.text


def verdict_class(analysis: Analysis, row: Row) -> str:
    """The class of a verdict in the page's style; empty for those that show nothing."""
    if row.comparison is None or analysis.results.alpha is None:
        return ""
    return {"better": "better", "worse": "worse"}.get(row.comparison.verdict.word, "")


def speedup_cell(found: Speedup | str) -> str:
    """1.32 [1.20, 1.45]; the reason where there is none."""
    if isinstance(found, str):
        return found
    return f"{found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]" if found.high < 1e4 else f"{found.ratio:.2f} [wide]"


def cost_cells(row: Row) -> dict[str, str]:
    """Speed and size: tokens per second, model FLOPs of a run, parameters, active parameters, peak of memory."""
    sizes = row.variant.sizes
    steps = [run.total_steps for run in row.variant.runs.values() if run.total_steps is not None]
    speed, peak = row.mean_of("tokens_per_second"), row.mean_of("peak_bytes")
    flops = sizes.flops_per_token * sizes.tokens_before(steps[0]) if sizes is not None and steps else None
    return {
        "tokens/s": NONE if speed is None else format_count(speed),
        "FLOPs": NONE if flops is None else format_flops(flops),
        "parameters": NONE if sizes is None else format_count(sizes.parameters),
        "active": NONE if sizes is None else format_count(sizes.active_parameters),
        "memory": NONE if peak is None else format_bytes(peak),
    }


def other_metrics(analysis: Analysis) -> list[str]:
    """The number of the sweep's metric in the other evaluations of its runs, such as twice/loss for loss."""
    metric = analysis.results.metric
    finals = (name for run in analysis.results.runs() for name in run.final)
    number = metric.rpartition("/")[2]
    return list(dict.fromkeys(name for name in finals if name != metric and name.rpartition("/")[2] == number))


def other_table(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the other evaluations: mean, difference to the base with its interval; no verdicts."""
    metrics, places = other_metrics(analysis), decimals(analysis)
    rows = []
    for row in analysis.rows:
        cells = [row.name]
        for metric in metrics:
            base, own = (_finite(one.variant.final(metric)) for one in (analysis.base, row))
            known = not row.is_base and len(base.keys() & own.keys()) > 1
            found = paired(base, own, LEVEL) if known else None
            change = number(None if found is None else found.mean, places, True)
            deviation = float(np.std([*own.values()], ddof=1)) if len(own) > 1 else None
            mean = number(float(np.mean([*own.values()])) if own else None, places)
            cells.append(mean if deviation is None else f"{mean} \u00b1 {number(deviation, places)}")
            cells.append(change if found is None else f"{change} {interval_cell(found, places)}")
        rows.append(cells)
    return ["variant", *(name for metric in metrics for name in (metric, "difference"))], rows


def _finite(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if math.isfinite(value)}


def format_flops(value: float) -> str:
    """1.23e15."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}e{int(exponent)}"


def tuning_rows(analysis: Analysis) -> list[dict[str, str]]:
    """How far the rate of each variant was tuned; empty if no rate was searched."""
    rows = []
    for row in analysis.rows:
        search, schedule = row.variant.search, row.variant.config.get("schedule") or {}
        own = schedule.get("peak")
        if not search.get("rounds"):
            rows.append({"name": row.name, "rate": _rate(own), "tuned": "not tuned: the rate of its config"})
            continue
        rounds = search["rounds"]
        tried = sorted({float(rate) for one in rounds for rate in one["losses"]})
        lengths = ", ".join(f"{one['steps']:,}" for one in rounds)
        lost = sum(loss is None for one in rounds for loss in one["losses"].values())
        words = f"{len(tried)} rates from {_rate(tried[0])} to {_rate(tried[-1])}, rounds of {lengths} steps"
        words += f"; {format_counted(lost, 'run')} failed or diverged" * bool(lost)
        words += edge_words(search)
        words += "; the search is not done" * (search.get("rate") is None)
        rows.append({"name": row.name, "rate": _rate(search.get("rate")), "tuned": words})
    searched = any(row.variant.search.get("rounds") for row in analysis.rows)
    return rows if searched else []


def edge_words(search: Mapping[str, Any]) -> str:
    """A warning that a better rate may lie beyond the best; empty where rates on both sides did worse in its round."""
    if search.get("at_edge"):
        return "; the best is the last of its range, so one beyond may be better"
    best, rounds = search.get("rate"), search["rounds"]
    if best is None:
        return ""
    last = [float(rate) for rate in rounds[-1]["losses"]]
    tried = {float(rate): (one["steps"], loss) for one in rounds for rate, loss in one["losses"].items()}
    words = ""
    for end, beyond in (
        (min(last), [rate for rate in tried if rate < min(last)]),
        (max(last), [rate for rate in tried if rate > max(last)]),
    ):
        if best != end or not beyond:
            continue
        nearest = min(beyond, key=lambda rate: abs(rate - end))
        steps, loss = tried[nearest]
        if loss is not None and math.isfinite(loss):
            words += f"; {_rate(nearest)} beside the best was left out after {steps:,} steps"
    return words + ", and may be better at full length" * bool(words)


def _rate(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else NONE


def equal_words(analysis: Analysis) -> str:
    """The quantity that was held equal, in words."""
    hold, by = analysis.results.content.get("hold"), analysis.results.content.get("hold_by")
    if hold is None:
        return "nothing but the base's settings held equal"
    return f"{_QUANTITIES.get(hold, hold)} held equal" + (f" by {_KNOBS.get(by, by)}" if by else "")


def claim_words(analysis: Analysis) -> list[tuple[str, str, str]]:
    """(variant, word, text) of the judgement of the claim for every variant."""
    return [(row.name, row.judgement.word, row.judgement.text) for row in analysis.rows if row.judgement is not None]


def decision_rows(analysis: Analysis) -> list[dict[str, str]]:
    """The order of the variants against that in each larger sweep."""
    rows = []
    for found in analysis.decisions:
        small, large = (NONE if size is None else format_count(size) for size in found.sizes)
        accuracy = found.accuracy
        rows.append(
            {
                "larger": found.larger,
                "sizes": f"{small} to {large} parameters",
                "share": f"{accuracy.share:.0%} [{accuracy.low:.0%}, {accuracy.high:.0%}]",
                "pairs": f"{accuracy.pairs:,} pairs of {accuracy.variants} variants",
                "reversed": ", ".join(f"{a} before {b}" for a, b in found.reversed) or "none",
                "left_out": ", ".join(found.left_out),
            }
        )
    return rows


def _batches_words(analysis: Analysis) -> str:
    """Whether the runs of one seed read the same batches: not with another tokenizer, other data or other sizes."""
    base = analysis.base.variant.config.get("data") or {}
    found: dict[str, list[str]] = {"data": [], "batches of the same data": []}
    for row in analysis.rows:
        changed = _changed_data(base, row.variant.config.get("data") or base)
        if changed:
            found["data" if changed - _BATCHING else "batches of the same data"].append(row.name)
    others = "; ".join(f"other {what} have {', '.join(names)}" for what, names in found.items() if names)
    variants = len(analysis.rows) - 1
    if not others or sum(map(len, found.values())) < variants:
        return "which has the same batches in the same order" + (f" ({others})" if others else "")
    if len(found["data"]) == variants:
        return "whose data are others: the batches of a pair differ"
    if not found["data"]:
        return "whose data are the same in other batches: the batches of a pair differ"
    return f"whose batches are others than those of every variant ({others})"


def _changed_data(base: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """The fields of two data options, as JSON, that differ, apart from those that only change the execution."""
    cls = option_classes(fields_of(Experiment)["data"]).get(str(base.get("type")))
    fields = () if cls is None else dataclasses.fields(cls)
    execution = {field.name for field in fields if field.metadata.get("changes") == "execution"}
    return {name for name in base.keys() | other.keys() if base.get(name) != other.get(name)} - execution


def method(analysis: Analysis) -> list[str]:
    """How the numbers came about, in sentences."""
    results, others = analysis.results, len(analysis.rows) - 1
    lines = [
        f"{results.metric} is that of the last evaluation, at the last step; never the best one. \u00b1 is the "
        "standard deviation over seeds."
    ]
    if others:
        lines += _method_of_differences(analysis, others)
    if any(run.joint for run in results.runs()):
        lines.append("Runs that trained jointly, in one program, have no time, speed and memory of their own.")
    return lines


def _method_of_differences(analysis: Analysis, others: int) -> list[str]:
    """The same of the differences of `others` variants to the base."""
    results, seeds = analysis.results, len(analysis.results.seeds)
    lines = [
        f"Differences are to {results.base} with the same seed, {_batches_words(analysis)}; "
        f"intervals ({LEVEL:.0%}) and p-values are those of the paired t test over {seeds} seeds.",
    ]
    if (rate := false_rate(results)) is not None:
        lines.append(
            f"p-values are adjusted for {format_counted(others, 'comparison')} (Holm). With no difference anywhere, "
            f"a verdict of better or worse stands in at most {100 * rate:.3g}% of such sweeps. A variant is "
            "judged once, when all its declared seeds and those of the base are done. Intervals are those of one "
            "comparison, without this adjustment: one may leave out 0 where the verdict is not shown."
        )
    if analysis.noise is not None:
        lines.append(
            f"The effect is the difference in standard deviations over seeds within a variant, "
            f"{analysis.noise:.3g} here, pooled over all variants."
        )
    if analysis.shown is not None:
        lines.append(
            f"{seeds} seeds show a difference of {analysis.shown:.2g} in {POWER:.0%} of repetitions (at the median "
            "deviation of the differences); smaller ones are mostly not shown."
        )
    if analysis.document_unit:
        lines.append(
            f"Differences over documents ({analysis.document_unit}, means over seeds) have the interval of a paired "
            "bootstrap whose units are documents: they say whether other text would show the same, not other seeds."
        )
    lines.append(
        "Speed-up to equal loss: the cost of the base over that of the variant at the higher of the two final losses "
        "of a seed; geometric mean with the t interval of the logarithms. Wall time is that of training steps, without "
        "compilation and evaluation; runs that shared a machine slowed one another."
    )
    return lines
