"""The evaluations of two runs: those in their files, and a new one of both on the same documents, paired."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.shards.dataset import dataset_of_run
from train.data.tokenizers.interface import Tokenizer
from train.evaluation.documents import Document, from_files, from_split, from_text
from train.evaluation.evaluate import Result, evaluate
from train.evaluation.measures import Tally
from train.lab.statistics.differences import Difference
from train.lab.statistics.documents import paired_bootstrap
from train.report.run import RunData
from train.run.loading import LoadedRun, latest_step, load_run
from train.terminal.formatting import format_counted

# Measures of a line of evaluation; those per token can be compared only where the tokens are the same.
PER_TOKEN = ("loss", "perplexity")
MEASURES = (*PER_TOKEN, "bits_per_byte")


@dataclasses.dataclass(frozen=True)
class RecordedEvaluation:
    """The last evaluation of one text in the files of two runs.

    Attributes:
      text: "validation", or the name of a further text.
      measure: one of `MEASURES`.
      step_a, step_b: the steps at which they were measured.
      a, b: the values.
      same_text: whether the text is the same in both; None where that is not known.
    """

    text: str
    measure: str
    step_a: int
    step_b: int
    a: float
    b: float
    same_text: bool | None


def recorded_evaluations(
    a: RunData, b: RunData, same_validation: bool | None, per_token: bool
) -> list[RecordedEvaluation]:
    """The last lines of every text that both runs have: the final ones of finished runs, never the best.

    Args:
      a, b: the runs.
      same_validation: whether their validation splits are the same; None where that is not known.
      per_token: whether their tokens are the same, so that measures per token can be compared.
    """
    found = []
    lines_a, lines_b = _last_lines(a), _last_lines(b)
    for text in [text for text in lines_a if text in lines_b]:
        line_a, line_b = lines_a[text], lines_b[text]
        same = same_validation if text == "validation" else _same_named_text(text, a, b)
        for measure in MEASURES if per_token else ("bits_per_byte",):
            one, other = line_a.get(measure), line_b.get(measure)
            if isinstance(one, int | float) and isinstance(other, int | float):
                found.append(RecordedEvaluation(text, measure, line_a["step"], line_b["step"], one, other, same))
    return found


def _last_lines(run: RunData) -> dict[str, dict[str, Any]]:
    named = {str(line["name"]): line for line in run.named_evaluations}
    return ({"validation": run.evaluations[-1]} if run.evaluations else {}) | named


def _same_named_text(name: str, a: RunData, b: RunData) -> bool | None:
    """Whether two runs name the same path for a further text."""
    found = []
    for run in (a, b):
        options = run.config.get("evaluations")
        named = [one for one in options if isinstance(one, dict)] if isinstance(options, list) else []
        found.append([{k: v for k, v in one.items() if k != "every"} for one in named if one.get("name") == name])
    return found[0] == found[1] if all(found) else None


@dataclasses.dataclass(frozen=True)
class PairedMeasure:
    """A measure of both runs on the same documents; `difference` is b - a, None where it has no interval."""

    measure: str
    a: float
    b: float
    difference: Difference | None


@dataclasses.dataclass(frozen=True)
class PairedEvaluation:
    """Both runs on the same documents.

    Attributes:
      text: the text in words.
      documents: how many of it were scored, of how many.
      steps: the steps of the checkpoints.
      windows: tokens of context of each run, and the stride of its window.
      measures: the results.
      notes: sentences about them.
    """

    text: str
    documents: tuple[int, int]
    steps: tuple[int, int]
    windows: tuple[tuple[int, int], tuple[int, int]]
    measures: list[PairedMeasure]
    notes: list[str]


def paired_evaluation(
    a: pathlib.Path,
    b: pathlib.Path,
    texts: Sequence[str] = (),
    *,
    same_tokenizer: bool,
    held_out_by_both: bool = True,
    max_documents: int = 1000,
    level: float = 0.95,
    on_progress: Callable[[int], None] | None = None,
) -> PairedEvaluation:
    """Measures the latest checkpoints of two runs on the same documents; one model is in memory at a time.

    Args:
      a, b: the run folders.
      texts: paths as for `launch.evaluate --text`; the validation split of `a` where there is none.
      same_tokenizer: whether both have the same tokens; otherwise only bits per byte are measured.
      held_out_by_both: whether their validation splits are the same.
      max_documents: the most documents to score, evenly spread over the text.
      level: of the intervals.
      on_progress: called with the number of tokens that were scored.

    Raises:
      UserError: for a run without checkpoint or dataset, a text that cannot be read, and where there is no token.
    """
    for run in (a, b):  # before the time of an evaluation is spent
        if latest_step(run) is None:
            raise UserError(f"{run} has no checkpoint")
    tokenizers = [dataset_of_run(run).tokenizer for run in (a, b)]
    documents, total = _documents(a, tokenizers, texts, same_tokenizer, max_documents)
    results = []
    for run, tokenized in zip((a, b), documents, strict=True):
        results.append(_evaluate(load_run(run), tokenized, on_progress))
    notes = _notes(results, documents, tokenizers)
    if not texts and not held_out_by_both:
        notes.append(f"{b} may have been trained on this text: its data was split otherwise; --text names another text")
    measures = []
    for measure in ("loss", "bits_per_byte") if same_tokenizer else ("bits_per_byte",):
        difference = None
        try:
            sums = [_sums(result.tally, measure) for result in results]
            difference = paired_bootstrap(*sums[0], *sums[1], level=level)
        except UserError as error:
            notes.append(f"{measure.replace('_', ' ')}: no interval: {error}")
        values = [result.measures[measure].value for result in results]
        measures.append(PairedMeasure(measure, values[0], values[1], difference))
    return PairedEvaluation(
        text=" ".join(texts) or f"the validation split of {a}",
        documents=(len(documents[0]), total),
        steps=(results[0].step, results[1].step),
        windows=((results[0].window, results[0].stride), (results[1].window, results[1].stride)),
        measures=measures,
        notes=notes,
    )


def _documents(
    run: pathlib.Path, tokenizers: Sequence[Tokenizer], texts: Sequence[str], same: bool, most: int
) -> tuple[list[list[Document]], int]:
    """The documents that both runs can score, as tokens of each, and the number of documents in the text."""
    first, second = tokenizers
    found = list(from_files(first, texts) if texts else from_split(dataset_of_run(run), "validation"))
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(len(found), most)).round().astype(int))]
    others = chosen
    if not same:
        others = [from_text(second, document.name, first.decode(document.ids)) for document in chosen]
    pairs = [
        pair
        for pair in zip(chosen, others, strict=True)
        if all(_is_scored(document, tokenizer) for document, tokenizer in zip(pair, tokenizers, strict=True))
    ]
    if not pairs:
        raise UserError("no document of the text has a token that both runs can score; give a longer --text")
    return [[pair[0] for pair in pairs], [pair[1] for pair in pairs]], len(found)


def _is_scored(document: Document, tokenizer: Tokenizer) -> bool:
    """Whether a document has a token with another, or the mark that begins documents, before it."""
    return len(document.ids) >= (2 if tokenizer.begin_of_document is None else 1)


def _evaluate(run: LoadedRun, documents: Sequence[Document], on_progress: Callable[[int], None] | None) -> Result:
    result = evaluate(run, documents, on_progress=on_progress)
    assert len(result.tally.entries) == len(documents)
    return result


def _sums(tally: Tally, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the count of each document whose quotient of totals is the measure."""
    if measure == "loss":
        return tally.column("nll") + tally.column("end_nll"), tally.column("tokens") + tally.column("end_tokens")
    return tally.column("nll") / math.log(2), tally.column("bytes")


def _notes(
    results: Sequence[Result],
    documents: Sequence[Sequence[Document]],
    tokenizers: Sequence[Tokenizer],
) -> list[str]:
    found = []
    if results[0].window != results[1].window:
        found.append(
            f"the runs were trained on sequences of {results[0].window} and {results[1].window} tokens, and are "
            "measured with as much context"
        )
    lost = [sum(not document.restored for document in of_run) for of_run in documents]
    for name, count in zip("AB", lost, strict=True):
        if count:
            documents_lost = format_counted(count, "document")
            found.append(f"the tokenizer of {name} loses a part of {documents_lost}: bits per byte are too low")
    if len({tokenizer.begin_of_document is None for tokenizer in tokenizers}) > 1:
        found.append("one tokenizer has no mark that begins a document, so its first tokens are not counted")
    return found
