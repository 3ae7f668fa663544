"""Losses of every document of the compared text, for each run of a sweep: measured on demand, and kept in its folder.

SWEEP/documents/VARIANT-seedN.json   the sums of the run's last checkpoint, one for each document, in their order
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import UserError
from train.files.files import read_json, write_json
from train.lab.results import RunResult, SweepResults
from train.lab.statistics.differences import Difference
from train.lab.statistics.documents import fewest_documents, paired_bootstrap
from train.terminal.formatting import format_counted

if TYPE_CHECKING:
    from train.evaluation.documents import Document
    from train.evaluation.named_evaluations import NamedEvaluation
    from train.run.loading import LoadedRun

FOLDER = "documents"
_COLUMNS = ("nll", "tokens", "bytes", "end_nll", "end_tokens")
_SCHEMA = {"step": int, "text": str, **{name: [float] for name in _COLUMNS}}
_SCORED = ("loss", "perplexity", "bits_per_byte")  # metrics that are made of these sums

Sums = dict[str, np.ndarray]


def measure_documents(results: SweepResults, say: Callable[[str], None] = print) -> None:
    """Evaluates every finished run on the text of the sweep's metric, document by document, and keeps the sums.

    All of the text is read, in windows that follow one another, whatever `max_batches` the evaluation in training has.
    A run that was measured at this step before is left alone. Raises UserError for a metric that is no loss, and for a
    run that cannot be loaded.
    """
    if results.metric.rpartition("/")[2] not in _SCORED:
        raise UserError(
            f"the metric {results.metric!r} is no sum over documents; expected one of {', '.join(_SCORED)}, or of an "
            "evaluation, as in wiki/loss"
        )
    from train.evaluation.evaluate import evaluate
    from train.run.loading import load_run

    runs = [run for run in results.runs() if run.state == "finished" and _kept(results, run) is None]
    for number, run in enumerate(runs, start=1):
        say(f"{run.folder.name}: its loss on every document ({number} of {len(runs)})")
        loaded = load_run(str(run.folder), str(run.step))
        option = _evaluation(results, loaded)
        window = (option and option.sequence_length) or loaded.experiment.data.sequence_length
        texts = None if option is None else _documents(option, loaded)
        tally = evaluate(loaded, texts, window=window, stride=window).tally  # a smaller stride takes longer
        columns = {name: tally.column(name).tolist() for name in _COLUMNS}
        path = _path(results, run)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"step": run.step, "text": _text(results), **columns})


def compare_documents(results: SweepResults, level: float) -> tuple[dict[str, Difference], str]:
    """The difference of every variant to the base over documents, averaged over seeds, and its unit.

    Per token, or in bits per byte if the variants have different tokens. Only of variants whose declared seeds were all
    measured. Empty, with an empty unit, if the base was not measured.
    """
    sums = {name: found for name in results.variants if (found := _mean_sums(results, name)) is not None}
    base = sums.pop(results.base, None)
    if base is None or not sums or len(base["nll"]) < fewest_documents(level):
        return {}, ""
    same_text = {name: own for name, own in sums.items() if np.array_equal(own["bytes"], base["bytes"])}
    per_token = results.metric.rpartition("/")[2] != "bits_per_byte" and all(
        np.array_equal(own[name], base[name]) for own in same_text.values() for name in ("tokens", "end_tokens")
    )
    pairs = {name: (*_ratio(base, per_token), *_ratio(own, per_token)) for name, own in same_text.items()}
    unit = "nats per token" if per_token else "bits per byte"
    return {name: paired_bootstrap(*pair, level=level) for name, pair in pairs.items()}, unit


def too_few_documents(results: SweepResults, level: float) -> str:
    """A sentence if the base was measured on too few documents for an interval; empty if not."""
    base, fewest = _mean_sums(results, results.base), fewest_documents(level)
    if base is None or len(base["nll"]) >= fewest:
        return ""
    count = len(base["nll"])
    return (
        f"No interval over documents: the text of {_text(results)} has {format_counted(count, 'document')}, and an "
        f"interval takes at least {fewest}."
    )


def _ratio(sums: Sums, per_token: bool) -> tuple[np.ndarray, np.ndarray]:
    """The sums of losses and the counts that they are divided by; without documents that have nothing to score."""
    if per_token:
        losses, counts = sums["nll"] + sums["end_nll"], sums["tokens"] + sums["end_tokens"]
    else:
        losses, counts = sums["nll"] / math.log(2), sums["bytes"]
    return losses[counts > 0], counts[counts > 0]


def _mean_sums(results: SweepResults, name: str) -> Sums | None:
    """The sums of each document, averaged over all declared seeds; None if one of these was not measured."""
    found = [_kept(results, run) for run in results.variants[name].runs.values() if run.state == "finished"]
    kept = [sums for sums in found if sums is not None]
    if len(kept) < len(results.seeds) or any(len(sums["nll"]) != len(kept[0]["nll"]) for sums in kept):
        return None
    return {column: np.mean([sums[column] for sums in kept], axis=0) for column in _COLUMNS}


def _kept(results: SweepResults, run: RunResult) -> Sums | None:
    """The sums of a run that were kept; None if they are of another step or text, or cannot be read."""
    path = _path(results, run)
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = read_json(path, schema=_SCHEMA)
    except UserError:
        return None
    if content["step"] != run.step or content["text"] != _text(results):
        return None
    return {name: np.array(content[name], np.float64) for name in _COLUMNS}


def _text(results: SweepResults) -> str:
    """The name of the text that the metric is measured on."""
    return results.metric.rpartition("/")[0] or "validation"


def _path(results: SweepResults, run: RunResult) -> pathlib.Path:
    return results.folder / FOLDER / f"{run.folder.name}.json"


def _evaluation(results: SweepResults, run: LoadedRun) -> NamedEvaluation | None:
    """The named evaluation of the metric; None for the validation split."""
    from train.evaluation.named_evaluations import NamedEvaluation

    name = _text(results)
    named = [option for option in run.experiment.evaluations if isinstance(option, NamedEvaluation)]
    return next((option for option in named if option.name == name), None)


def _documents(option: NamedEvaluation, run: LoadedRun) -> list[Document]:
    """The documents that a named evaluation measures."""
    from train.evaluation.documents import from_split
    from train.evaluation.named_evaluations import evaluated_split

    dataset, split = evaluated_split(option, pathlib.Path(run.folder), run.dataset())
    return list(from_split(dataset, split))
