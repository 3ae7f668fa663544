"""Two runs compared: everything that launch.compare prints, from whatever their folders hold."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.lab.comparison.curves import AXES, CurvePair, curve_pairs
from train.lab.comparison.differences import Change, DatasetIdentity, differences, identity_of
from train.lab.comparison.divergence import Divergence, divergence
from train.lab.comparison.evaluation import (
    PairedEvaluation,
    RecordedEvaluation,
    paired_evaluation,
    recorded_evaluations,
)
from train.report.run import RunData, load, run_state

BY_BYTES = "the tokenizers differ, so losses per token cannot be compared: only bits per byte are"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs have in common, and in what they differ.

    Attributes:
      a, b: the runs.
      same_tokenizer: whether their tokens are the same; None where a dataset is gone, and then they count as the same
        if the configs name the same vocabulary.
      changes: the differences of config, code, data and environment.
      divergence: where their numbers part.
      curves: the curves that both have.
      recorded: the last evaluations in their files.
      paired: a new evaluation of both on the same documents; None where none was made.
      notes: sentences about missing parts.
    """

    a: RunData
    b: RunData
    same_tokenizer: bool | None
    changes: list[Change]
    divergence: Divergence
    curves: list[CurvePair]
    recorded: list[RecordedEvaluation]
    paired: PairedEvaluation | None
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The values, for JSON; None for numbers that are not finite."""
        first = [
            dataclasses.asdict(item) | {"difference": item.difference, "relative": item.relative}
            for item in self.divergence.first
        ]
        found: dict[str, Any] = _plain(
            {
                "a": _run_json(self.a),
                "b": _run_json(self.b),
                "same_tokenizer": self.same_tokenizer,
                "changes": list(map(dataclasses.asdict, self.changes)),
                "divergence": dataclasses.asdict(self.divergence) | {"first": first},
                "curves": list(map(_curve_json, self.curves)),
                "recorded": list(map(dataclasses.asdict, self.recorded)),
                "paired": None if self.paired is None else dataclasses.asdict(self.paired),
                "notes": self.notes,
            }
        )
        return found


def compare(
    a: str | pathlib.Path,
    b: str | pathlib.Path,
    *,
    texts: Sequence[str] = (),
    evaluate: bool = True,
    max_documents: int = 1000,
    on_progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Compares two runs; a part that a folder does not have becomes a note.

    Args:
      a, b: the run folders.
      texts: paths of the text to evaluate both on; the validation split of `a` where there is none.
      evaluate: whether to evaluate both on the same documents, which takes the time of two launch.evaluate.
      max_documents: the most documents of it.
      on_progress: called with the number of tokens that were scored.

    Raises:
      UserError: where there is no such folder, and for a given text that cannot be read.
    """
    runs = load(a), load(b)
    notes = [f"{name}: {note}" for name, run in zip("AB", runs, strict=True) for note in run.notes]
    for name, run in zip("AB", runs, strict=True):
        if not (run.config or run.train or run.sessions):
            raise UserError(f"{run.folder} is no run folder: it has no config.json, metrics.jsonl or environment.json")
        state, details = run_state(run)
        if state != "finished":
            notes.append(f"{name} is not finished ({state}, {details}): its last numbers are not final ones")
    same_folder = runs[0].folder.resolve() == runs[1].folder.resolve()
    if same_folder:
        notes.append("both are the same folder")
    identities = _identity(runs[0], "A", notes), _identity(runs[1], "B", notes)
    same_tokenizer, same_validation = None, None
    if identities[0] is not None and identities[1] is not None:
        same_tokenizer = identities[0].tokenizer == identities[1].tokenizer
        same_validation = identities[0].same_split(identities[1], "validation")
    per_token = _vocabulary(runs[0]) == _vocabulary(runs[1]) if same_tokenizer is None else same_tokenizer
    if not per_token:
        notes.append(BY_BYTES)
    paired = None
    if evaluate and (texts or not same_folder):
        try:
            paired = paired_evaluation(
                runs[0].folder,
                runs[1].folder,
                texts,
                same_tokenizer=bool(same_tokenizer),
                held_out_by_both=same_validation is True,
                max_documents=max_documents,
                on_progress=on_progress,
            )
        except UserError as error:
            if texts:
                raise
            notes.append(f"not evaluated on the same documents: {error}")
    lines = [[*run.train, *run.evaluations, *run.named_evaluations] for run in runs]
    return Comparison(
        a=runs[0],
        b=runs[1],
        same_tokenizer=same_tokenizer,
        changes=differences(*runs, identities),
        divergence=divergence(*lines),
        curves=curve_pairs(*runs, per_token),
        recorded=recorded_evaluations(*runs, same_validation, per_token),
        paired=paired,
        notes=notes,
    )


def _identity(run: RunData, name: str, notes: list[str]) -> DatasetIdentity | None:
    try:
        return identity_of(run.folder)
    except UserError as error:
        notes.append(f"{name}: {error}")
        return None


def _vocabulary(run: RunData) -> Any:
    model = run.config.get("model")
    return model.get("vocab_size") if isinstance(model, Mapping) else None


def _run_json(run: RunData) -> dict[str, Any]:
    state, details = run_state(run)
    return {"folder": str(run.folder), "state": state, "details": details, "step": run.step}


def _curve_json(pair: CurvePair) -> dict[str, Any]:
    sides = {
        name: {axis: curve.axis(axis) for axis in AXES} | {"values": curve.values}
        for name, curve in (("a", pair.a), ("b", pair.b))
    }
    reached = pair.reached()
    both = None if reached is None else {"loss": reached[0], "a": reached[1], "b": reached[2]}
    return {"name": pair.name, "reached": both} | sides


def _plain(value: Any) -> Any:
    """A tree of JSON values, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
