"""Pairwise accuracy: the share of pairs whose preferred answer a model puts first, and by how much.

A reward model puts the answer with the higher score first; a policy with a reference the one with the higher implicit
reward beta (log pi(y | x) - log rho(y | x)) (Rafailov et al. 2023, "Direct Preference Optimization", section 4); any
other model the more probable one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from model.errors import UserError
from train.data.conversations.found_template import find_chat_template
from train.data.preferences.batches import FORMATS
from train.data.preferences.option import OF_ANSWER, NoTemplate, Preferences
from train.data.preferences.reading import Preference, read_preferences
from train.data.preferences.rendering import Rendered, Renderer
from train.lab.statistics.decisions import wilson
from train.lab.statistics.differences import Difference, of_differences
from train.objectives.answers import log_probabilities, scores_of_answers
from train.objectives.interface import Batch
from train.parallel import feed
from train.parallel.table import replicated
from train.run.loading import LoadedRun

Measure = Literal["score", "implicit reward", "log-probability"]
ROWS = 32  # answers at a time
ANSWER = ("",)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The order in which a model puts the answers of pairs.

    Attributes:
      measure: the number by which it orders them.
      accuracy: the share of pairs whose preferred answer has the larger number; a tie counts as a half.
      low, high: the ends of Wilson's interval of that share.
      margin: the number of the preferred answer minus that of the other one, with the t interval of its mean.
      margins: the same of each pair, in the order of the rows.
    """

    measure: Measure
    accuracy: float
    low: float
    high: float
    margin: Difference
    margins: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The numbers, without those of each pair."""
        return {
            "measure": self.measure,
            "pairs": len(self.margins),
            "accuracy": self.accuracy,
            "accuracy_low": self.low,
            "accuracy_high": self.high,
            "margin": self.margin.mean,
            "margin_low": self.margin.low,
            "margin_high": self.margin.high,
            "level": self.margin.level,
        }


def accuracy_of_margins(measure: Measure, margins: Sequence[float], level: float = 0.95) -> Accuracy:
    """The accuracy of margins, of which there are at least two. Raises UserError for one that is not finite."""
    if len(margins) < 2:
        raise UserError(f"expected at least two pairs, got {len(margins)}: one tells nothing about the next")
    if broken := [i for i, margin in enumerate(margins) if not math.isfinite(margin)]:
        raise UserError(f"pair {broken[0] + 1} has the margin {margins[broken[0]]}; the model has diverged")
    share = float(np.mean([0.5 if margin == 0 else float(margin > 0) for margin in margins]))
    low, high = wilson(share, len(margins), level)
    return Accuracy(measure, share, low, high, of_differences(margins, level), tuple(map(float, margins)))


def accuracy_of_run(
    run: LoadedRun,
    path: str,
    reference: LoadedRun | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Accuracy:
    """The accuracy of a run on the pairs of a path's files.

    Args:
      run: a reward model, or a policy.
      path: the pairs; see train/data/preferences/reading.py.
      reference: the reference of a policy, with the same tokenizer; None for none.
      on_progress: called with the number of answers that are done.

    Raises:
      UserError: for bad rows, a pair longer than a context, and a reference of a reward model or of another tokenizer.
    """
    measure = measure_of(run, reference)
    rows = list(read_preferences(path))
    if labelled := [row for row in rows if row.label is not None]:
        raise UserError(f"{labelled[0].where}: is one answer with a label; accuracy is of pairs")
    texts = list(_rendered(run, rows))
    limits = [one.experiment.model.context_length for one in (run, reference) if one is not None]
    refuse_long(texts, [row.where for row in rows for _ in row.answers], min(limits))
    numbers = answer_numbers(run, texts, on_progress, scores=measure == "score")
    if reference is not None:
        before = answer_numbers(reference, texts, lambda done: on_progress(len(texts) + done), scores=False)
        numbers = beta_of(run) * (numbers - before)
    pairs = numbers.reshape(-1, 2)
    return accuracy_of_margins(measure, (pairs[:, 0] - pairs[:, 1]).tolist())


def measure_of(run: LoadedRun, reference: LoadedRun | None) -> Measure:
    """The number by which a run orders answers. Raises UserError for a reference that it cannot have."""
    if run.experiment.model.score_head is not None:
        if reference is not None:
            raise UserError(f"{run.folder} is a reward model, whose scores have no reference; leave --reference out")
        return "score"
    if reference is None:
        return "log-probability"
    if reference.tokenizer.fingerprint() != run.tokenizer.fingerprint():
        raise UserError(
            f"the reference {reference.folder} has another tokenizer than {run.folder}: ids would mean other texts "
            "to it"
        )
    return "implicit reward"


def beta_of(run: LoadedRun) -> float:
    """The beta of the objective that a policy was trained with; 1 for others."""
    return float(getattr(run.experiment.objective, "beta", 1.0))


def reference_of(run: LoadedRun) -> str | None:
    """The reference that a run's objective had; None for other objectives, and for one that began from no run."""
    objective = run.experiment.objective
    if not getattr(objective, "has_reference", False):
        return None
    return getattr(objective, "reference", None) or run.experiment.training.init_from


def renderer_of(run: LoadedRun) -> Renderer:
    """The renderer of a run: with the template that it was trained with, if it has one; else texts as they are."""
    data = run.experiment.data
    if isinstance(data, Preferences) and isinstance(data.template, NoTemplate):
        return Renderer(run.tokenizer, None)
    return Renderer(run.tokenizer, find_chat_template(run.folder, run.tokenizer))


def _rendered(run: LoadedRun, rows: Sequence[Preference]) -> Iterator[Rendered]:
    renderer = renderer_of(run)
    for row in rows:
        yield from renderer.answers(row)


def refuse_long(texts: Sequence[Rendered], places: Sequence[str], context_length: int) -> None:
    """Raises UserError for a prompt with an answer that is longer than the context, with its row."""
    for text, where in zip(texts, places, strict=True):
        if len(text.ids) > context_length:
            raise UserError(
                f"{where}: prompt and answer have {text.prompt:,} + {len(text.ids) - text.prompt:,} tokens, more than "
                f"the model's context_length={context_length:,}; shorten them, or leave the row out: no answer is cut"
            )


def answer_numbers(
    run: LoadedRun, texts: Sequence[Rendered], on_progress: Callable[[int], None], scores: bool
) -> np.ndarray:
    """The score, or the log-probability, of each answer, float64 (answers,)."""
    model, layout = run.experiment.model, run.layout
    placement = layout.placement(("batch", "sequence"))
    size = -(-ROWS // layout.ways("batch")) * layout.ways("batch")
    longest = max(len(text.ids) for text in texts)
    length = min(-(-longest // 64) * 64, model.context_length)
    measured = scores_of_answers if scores else log_probabilities

    def numbers(params: Any, batch: Batch) -> jax.Array:
        return measured(model, params, batch, ANSWER, dropout_key=None, layout=layout).logp[:, 0]

    compiled, found = jax.jit(numbers, out_shardings=replicated(run.mesh)), []
    for first in range(0, len(texts), size):
        batch = _batch(texts[first : first + size], size, length)
        found.append(np.asarray(compiled(run.params, feed.to_devices(batch, placement, size, False)), np.float64))
        on_progress(min(first + size, len(texts)))
    return np.concatenate(found)[: len(texts)]


def _batch(texts: Sequence[Rendered], size: int, length: int) -> dict[str, np.ndarray]:
    shape = (size, length)
    batch: dict[str, np.ndarray] = {name: np.zeros(shape, FORMATS[name]) for name in OF_ANSWER}
    for row, (ids, counted, _) in enumerate(texts):
        batch["tokens"][row, : len(ids)] = ids
        batch["targets"][row, : len(ids) - 1] = ids[1:]
        batch["weights"][row, : len(ids) - 1] = counted[1:]
    return batch


def table(found: Accuracy) -> str:
    """The numbers for a person."""
    margin, level = found.margin, f"{found.margin.level:.0%}"
    return "\n".join(
        [
            f"{len(found.margins):,} pairs, ordered by {found.measure}",
            f"accuracy  {found.accuracy:.1%}  [{found.low:.1%}, {found.high:.1%}]  ({level}, Wilson)",
            f"margin    {margin.mean:.4f}  [{margin.low:.4f}, {margin.high:.4f}]  ({level}, t over pairs)",
        ]
    )
