"""The fit of a ladder's finished runs, and the larger runs that it predicts before they are trained."""

import datetime
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from model.errors import UserError
from train.files.files import read_json, replace_file, write_json
from train.lab.scaling.analysis import Analysis, HeldOut, analyse
from train.lab.scaling.ladder.plan import Planner, Rung
from train.lab.scaling.ladder.runs import Done, final_loss, finished_runs, is_finished, points_of, read_plan, rows_of
from train.lab.scaling.law import Interval, fit_law
from train.lab.scaling.points import write_points
from train.lab.scaling.report.page import render

_SCHEMA: dict[str, Any] = {
    "name": str,
    "parameters": int,
    "tokens": int,
    "flops": float,
    "steps": int,
    "settings": [str],
}
_SCHEMA |= {"level": float, "predicted": {"value": float, "low": float, "high": float}}


def predict_once(
    folder: pathlib.Path, planner: Planner, budget: float, draws: int, level: float, say: Callable[[str], None]
) -> Rung:
    """The run at the optimum of a budget that the finished runs predict; its predicted loss is written down.

    A prediction that is there already is kept, whatever the fit says now: it was made before the run was trained.
    Raises UserError for a budget that is not larger than those of the runs.
    """
    path = folder / f"held_out-{_short(budget)}.json"
    if path.is_file():
        stored = _read(path)
        rung = planner.for_budget(stored["parameters"], budget)
        if [*rung.settings] != stored["settings"]:
            raise UserError(f"{path} was predicted for another base; give another --run")
        return rung
    points = points_of(_finished(folder))
    if budget <= points.flops.max():
        raise UserError(
            f"--held_out={budget:.3g} is no larger than the largest run, {points.flops.max():.3g} FLOPs; a prediction "
            "is tested beyond the runs that made it"
        )
    law = fit_law(points, draws)
    rung = planner.for_budget(float(law.surface.optimum(budget, law.compute)[0]), budget)
    predicted = law.predict(rung.parameters, rung.tokens, level)
    content = rung.as_json() | {
        "level": level,
        "predicted": predicted._asdict(),
        "runs": len(points),
        "law": law.surface.as_dict(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(path, content)
    say(
        f"predicted: {rung.name} will end at {predicted.value:.4f} [{predicted.low:.4f}, {predicted.high:.4f}] "
        f"({level:.0%}); written to {path}"
    )
    return rung


def fit_ladder(folder: pathlib.Path, *, at: Sequence[float], draws: int, level: float) -> tuple[Analysis, pathlib.Path]:
    """Fits the finished runs, and writes points.csv, fit.json and report.html; returns the fits and the page's path.

    Raises UserError when too few runs are finished.
    """
    plan, done = read_plan(folder), _finished(folder)
    write_points(folder / "points.csv", rows_of(done))
    held_out = [_held_out(folder, _read(path)) for path in sorted(folder.glob("held_out-*.json"))]
    epochs = [run.epochs for run in done if run.epochs is not None]
    largest = max(run.entry["flops"] for run in done) if done else 0.0
    analysis = analyse(
        points_of(done),
        names=[run.entry["name"] for run in done],
        curves=[run.curve for run in done],
        at=list(at) or [largest, max([10 * largest, *(one.flops for one in held_out)])],
        level=level,
        draws=draws,
        held_out=held_out,
        epochs=max(epochs, default=None),
    )
    write_json(folder / "fit.json", analysis.as_json())
    about = f"{len(done)} of {len(plan['runs'])} runs of {plan['config']}"
    about += "".join(f" --set {setting}" for setting in plan["settings"])
    page = folder / "report.html"
    replace_file(page, render(analysis, folder.resolve().name, about).encode("utf-8", errors="backslashreplace"))
    return analysis, page


def _finished(folder: pathlib.Path) -> list[Done]:
    done = finished_runs(folder, read_plan(folder)["runs"])
    if not done:
        raise UserError(f"no run of {folder} is finished; train it first, with --config and --flops")
    return done


def _read(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path, remedy="give another --run", schema=_SCHEMA)


def _held_out(folder: pathlib.Path, stored: dict[str, Any]) -> HeldOut:
    run = folder / stored["name"]
    return HeldOut(
        name=stored["name"],
        parameters=stored["parameters"],
        tokens=stored["tokens"],
        flops=stored["flops"],
        predicted=Interval(**stored["predicted"]),
        level=stored["level"],
        measured=final_loss(run) if is_finished(run) else None,
    )


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e")
