"""The runs of a ladder on disk: which there are, which are done, and their losses.

    LADDER/ladder.json        the base and every run that was planned
    LADDER/NAME/              an ordinary run folder
    LADDER/points.csv         a row for every finished run
    LADDER/fit.json           the fit
    LADDER/held_out-C.json    a larger run and the loss predicted for it, written before it is trained
    LADDER/report.html        the page

The loss of a run is that of the validation split at its last step, never the best one.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.shards.dataset import dataset_of_run
from train.files.files import read_json, write_json
from train.lab.scaling.envelope import Curve
from train.lab.scaling.ladder.plan import Rung
from train.lab.scaling.points import Points
from train.run.metrics import read_metrics, read_status

FILE = "ladder.json"
_SCHEMA = {"format": int, "config": str, "settings": [str], "runs": [{"name": str, "parameters": int, "tokens": int}]}


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished run: its entry in ladder.json, its loss, its training curve, the passes over its text."""

    entry: dict[str, Any]
    loss: float
    curve: Curve
    epochs: float | None


def record_plan(folder: pathlib.Path, config: str, settings: Sequence[str], rungs: Sequence[Rung]) -> None:
    """Writes the plan into a ladder's folder, beside runs that were planned before.

    Raises UserError when the folder holds a ladder of another base, or a run of the same name with other settings.
    """
    entries = {rung.name: rung.as_json() for rung in rungs}
    if (folder / FILE).is_file():
        before = read_plan(folder)
        for name, given in (("config", config), ("settings", list(settings))):
            if before[name] != given:
                raise UserError(
                    f"{folder} holds a ladder with {name} {before[name]}, not {given}; give another --run, or the "
                    "command that made it"
                )
        known = {entry["name"]: entry for entry in before["runs"]}
        for name in known.keys() & entries.keys():
            if known[name]["settings"] != entries[name]["settings"]:
                raise UserError(
                    f"{folder / name} was planned with {' '.join(known[name]['settings'])}; now it would be "
                    f"{' '.join(entries[name]['settings'])}: give another --run"
                )
        entries = known | entries
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files and no {FILE}: it is no ladder; give another --run")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "config": config, "settings": list(settings), "runs": list(entries.values())}
    write_json(folder / FILE, content)


def read_plan(folder: pathlib.Path) -> dict[str, Any]:
    """The content of ladder.json. Raises UserError when there is none."""
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} is no ladder: it has no {FILE}; give the folder of launch.ladder --run")
    return read_json(folder / FILE, remedy="give another --run", schema=_SCHEMA)


def is_finished(run: pathlib.Path) -> bool:
    """Whether a run says that it ended at its last step."""
    return (read_status(run) or {}).get("state") == "finished" and final_loss(run) is not None


def final_loss(run: pathlib.Path) -> float | None:
    """The validation loss at the last step of a run; None before that, or if it is not finite."""
    last = (read_status(run) or {}).get("total_steps")
    lines = [line for line in read_metrics(run) if line.get("kind") == "eval" and "name" not in line]
    found = [line["loss"] for line in lines if line["step"] == last and np.isfinite(line.get("loss") or np.nan)]
    return float(found[-1]) if found else None


def train_all(
    folder: pathlib.Path, rungs: Sequence[Rung], start: Callable[[Rung], int], say: Callable[[str], None]
) -> list[str]:
    """Trains the runs that are not finished, the cheapest first; returns the names of those that failed.

    `start` trains one run in its folder, continuing it if it was begun, and returns the exit status; any but 0 is a
    failure. KeyboardInterrupt from it ends the ladder.
    """
    failed, waiting = [], [rung for rung in rungs if not is_finished(folder / rung.name)]
    if done := len(rungs) - len(waiting):
        say(f"{done} of {len(rungs)} runs are finished already")
    for number, rung in enumerate(sorted(waiting, key=lambda rung: rung.flops), 1):
        say(f"[{number}/{len(waiting)}] {rung.name}: {rung.shape.describe()}, {rung.steps:,} steps")
        status = start(rung)
        if status or not is_finished(folder / rung.name):
            say(f"{rung.name} failed with status {status}; the others go on, and the same command continues it")
            failed.append(rung.name)
    return failed


def finished_runs(folder: pathlib.Path, entries: Sequence[dict[str, Any]]) -> list[Done]:
    """The finished runs among the entries of ladder.json."""
    return [done for entry in entries if (done := _done(folder / entry["name"], entry)) is not None]


def points_of(done: Sequence[Done]) -> Points:
    """The points of finished runs."""
    columns = [[run.entry[name] for run in done] for name in ("parameters", "tokens", "flops")]
    return Points.of(columns[0], columns[1], [run.loss for run in done], columns[2])


def rows_of(done: Sequence[Done]) -> list[dict[str, Any]]:
    """The rows of points.csv."""
    names = ("parameters", "parameters_without_embedding", "tokens", "flops", "steps", "shape")
    return [{"name": run.entry["name"], **{n: run.entry[n] for n in names}, "loss": run.loss} for run in done]


def _done(run: pathlib.Path, entry: dict[str, Any]) -> Done | None:
    if not is_finished(run):
        return None
    loss = final_loss(run)
    assert loss is not None
    lines = [line for line in read_metrics(run) if line.get("kind") == "train"]
    steps = np.array([line["step"] for line in lines], np.float64)
    curve = Curve(
        float(entry["parameters"]),
        steps / entry["steps"] * entry["flops"],
        np.array([line["loss"] for line in lines], np.float64),
    )
    return Done(entry, loss, curve, _epochs(run, entry["tokens"]))


def _epochs(run: pathlib.Path, tokens: int) -> float | None:
    """The passes over the training text; None where its dataset is gone."""
    try:
        return float(tokens / sum(part.num_tokens for part in dataset_of_run(run).split("train")))
    except UserError:
        return None
