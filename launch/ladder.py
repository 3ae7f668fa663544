"""Trains a ladder of small runs, fits the scaling law through them, and predicts a larger run before it is trained.

    python -m launch.ladder --config=configs/shakespeare_char.py --run=runs/ladder --flops=3e11,1e12,3e12 \
        --held_out=1e13 --dry_run
    python -m launch.ladder --config=configs/quickstart.py --run=runs/grid --parameters=3e5,1e6,3e6 \
        --tokens_per_parameter=5,10,20
    python -m launch.ladder --fit_only --points=points.csv --at=1e24
    python -m launch.ladder --fit_only --run=runs/ladder

--flops alone trains --sizes sizes for each budget, around the optimum that --tokens_per_parameter guesses; --parameters
trains these sizes with each of --flops, or else with each of --tokens_per_parameter. Sizes keep the shape of the
config's model (train/lab/scaling/ladder/shapes.py), and parameters and FLOPs are exact counts. The schedule stretches
to the steps of each run. Every run is an ordinary run folder in --run; the same command skips finished runs and
continues the others, and a command with more budgets adds to the ladder. A run that fails does not stop the rest.

With --held_out, the run at the predicted optimum of that budget is written to RUN/held_out-C.json with its interval,
then trained, then compared. RUN/report.html has it all. --fit_only trains nothing: it fits the finished runs of --run,
or any CSV file with the columns parameters, tokens, loss and, if known, flops.

Exit status: 0 when all runs are done, 1 when some failed, 75 when a signal ended it, 2 for a mistake in the input.
"""

import pathlib
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli
from launch.command.signals import EXIT_PREEMPTED
from model.errors import UserError

if TYPE_CHECKING:
    from train.lab.scaling.ladder.plan import Planner, Rung

CONFIG = cli.define_path("config", None, "The experiment whose sizes are trained: a Python file.")
SET = flags.DEFINE_multi_string(
    "set", [], "Changes one field of all runs: path.to.field=value. May be given many times."
)
MESH = cli.define_mesh()
RUN = cli.define_path("run", None, "The ladder's folder, with a run folder for each run.")
FLOPS = flags.DEFINE_list("flops", [], "Budgets of training FLOPs, such as 1e13,3e13,1e14.")
PARAMETERS = flags.DEFINE_list("parameters", [], "Sizes, such as 1e6,3e6,1e7; embeddings count.")
RATIOS = flags.DEFINE_list(
    "tokens_per_parameter",
    ["20"],
    "Tokens a parameter: with --flops alone the guess, else with --parameters those to train.",
)
SIZES = flags.DEFINE_integer("sizes", 5, "Sizes for each budget of --flops.", lower_bound=3)
SPREAD = flags.DEFINE_float("spread", 3.0, "They lie from 1/spread to spread times the guessed size.", lower_bound=1.01)
RATE_EXPONENT = flags.DEFINE_float(
    "rate_exponent", 0.0, "Scales the peak rate by (width / the config's width) to this power; 0 keeps it."
)
HELD_OUT = flags.DEFINE_float("held_out", None, "A larger budget: its run is predicted, then trained.", lower_bound=1.0)
AT = flags.DEFINE_list(
    "at", [], "The FLOPs at which optima are stated; not given: of the largest run, and ten times that."
)
FIT_ONLY = flags.DEFINE_bool("fit_only", False, "Trains nothing: fits --points, or the finished runs of --run.")
POINTS = cli.define_path("points", None, "A CSV file with the columns parameters, tokens, loss and, if known, flops.")
REPORT = cli.define_path("report", None, "Where the page is written with --points; none is when not given.")
DRAWS = flags.DEFINE_integer("draws", 1000, "Resamples behind every interval.", lower_bound=20)
LEVEL = flags.DEFINE_float("level", 0.95, "Of all intervals.", lower_bound=0.5, upper_bound=0.999)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Prints the plan, and trains nothing.")


_OF_RUNS = (FLOPS, PARAMETERS, RATIOS, SIZES, SPREAD, RATE_EXPONENT, HELD_OUT, DRY_RUN)
_KILLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # of a run that a signal reached before it could save


class _InterruptedError(Exception):
    """A signal ended a run."""


def main(argv: list[str]) -> int:
    """Reads the flags, trains and fits."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --flops=1e13,1e14")
    if POINTS.value is not None:
        _refuse((RUN, CONFIG, SET, MESH, *_OF_RUNS), "with --points, which trains nothing")
        return _fit_points()
    _refuse((REPORT,), "without --points: the page of a ladder is RUN/report.html")
    if RUN.value is None:
        raise UserError("--run is missing: the folder of the ladder, such as --run=runs/ladder; or --points=FILE.csv")
    from train.files.paths import local_path

    folder = local_path(RUN.value, "a ladder, which is written")
    if FIT_ONLY.value:
        _refuse((CONFIG, SET, MESH, *_OF_RUNS), "with --fit_only, which trains nothing")
        return _fit_ladder(folder)
    if CONFIG.value is None:
        raise UserError("--config is missing: sizes of which experiment? Try --config=configs/quickstart.py")
    cli.prepare_jax(keep_memory=False)
    from train.lab.scaling.ladder.plan import Planner
    from train.lab.scaling.ladder.runs import record_plan, train_all

    experiment = cli.experiment_from(CONFIG.value, SET.value, cli.mesh_from_flag(MESH))
    planner = Planner(experiment, RATE_EXPONENT.value)
    rungs = _plan(planner)
    if HELD_OUT.value is not None and HELD_OUT.value <= (largest := max(rung.flops for rung in rungs)):
        raise UserError(
            f"--held_out={HELD_OUT.value:.3g} is no larger than the largest run of the ladder, {largest:.3g} FLOPs; a "
            "prediction is tested beyond the runs that made it"
        )
    cli.print_escaped(_table(rungs))
    if HELD_OUT.value is not None:
        cli.print_escaped(
            f"then one of {HELD_OUT.value:.3e} FLOPs, not in this sum, of the size that these runs predict"
        )
    if DRY_RUN.value:
        return 0
    record_plan(folder, CONFIG.value, SET.value, rungs)
    try:
        failed = train_all(folder, rungs, lambda rung: _train(folder, rung), cli.print_escaped)
        if HELD_OUT.value is not None and not failed:
            failed = _held_out(folder, planner, HELD_OUT.value)
    except _InterruptedError:
        cli.print_escaped("interrupted; the same command continues the ladder")
        return EXIT_PREEMPTED
    status = _fit_ladder(folder)
    if failed:
        cli.print_escaped(f"failed: {', '.join(failed)}; the same command tries again")
    return 1 if failed else status


def _refuse(given: "Sequence[flags.FlagHolder]", where: str) -> None:
    """Raises UserError for a flag of these that was given."""
    if named := [flag.name for flag in given if flag.present]:
        raise UserError(f"--{named[0]} has no effect {where}; leave it out")


def _plan(planner: "Planner") -> "list[Rung]":
    budgets, parameters, ratios = (_numbers(flag) for flag in (FLOPS, PARAMETERS, RATIOS))
    if parameters:
        return planner.grid(parameters, budgets, ratios)
    if not budgets:
        raise UserError("--flops is missing: budgets such as --flops=1e13,3e13; or --parameters=1e6,3e6")
    if len(ratios) != 1:
        raise UserError("--tokens_per_parameter: with --flops alone it is one guess; give --parameters for a grid")
    return planner.isoflop(budgets, SIZES.value, SPREAD.value, ratios[0])


def _train(folder: pathlib.Path, rung: "Rung") -> int:
    """Trains one run as launch.train does, in a process of its own."""
    from launch.clusters.job import Job
    from launch.clusters.local import Local
    from launch.clusters.pool import wait_for_earlier

    wait_for_earlier([folder / rung.name])
    settings = (*SET.value, *rung.settings)
    status = Local().submit(Job(config=CONFIG.value, run=str(folder / rung.name), settings=settings, mesh=MESH.value))
    if status in (EXIT_PREEMPTED, *_KILLED):  # these come from a signal that was meant for the ladder
        raise _InterruptedError
    return status


def _held_out(folder: pathlib.Path, planner: "Planner", budget: float) -> list[str]:
    """Predicts the held-out run, writes the prediction down, and trains it."""
    from train.lab.scaling.ladder.held_out import predict_once
    from train.lab.scaling.ladder.runs import train_all

    prediction = predict_once(folder, planner, budget, DRAWS.value, LEVEL.value, cli.print_escaped)
    return train_all(folder, [prediction], lambda rung: _train(folder, rung), cli.print_escaped)


def _fit_points() -> int:
    from train.files.files import replace_file
    from train.files.paths import local_path
    from train.lab.scaling.analysis import analyse
    from train.lab.scaling.points import read_points
    from train.lab.scaling.words import describe

    target, path = cli.page_path("report", REPORT.value), local_path(POINTS.value, "a file of points")
    points = read_points(path)
    analysis = analyse(points, at=_numbers(AT), level=LEVEL.value, draws=DRAWS.value)
    cli.print_escaped(describe(analysis))
    if target is not None:
        from train.lab.scaling.report.page import render

        replace_file(target, render(analysis, path.stem, f"{len(points)} runs of {path}").encode())
        cli.print_escaped(f"report: {target}")
    return 0


def _fit_ladder(folder: pathlib.Path) -> int:
    from train.lab.scaling.ladder.held_out import fit_ladder
    from train.lab.scaling.words import describe

    analysis, page = fit_ladder(folder, at=_numbers(AT), draws=DRAWS.value, level=LEVEL.value)
    cli.print_escaped(describe(analysis))
    cli.print_escaped(f"report: {page}")
    return 0


def _table(rungs: "list[Rung]") -> str:
    from train.lab.scaling.words import table
    from train.terminal.formatting import format_count

    rows = [("run", "shape", "parameters", "tokens", "a parameter", "steps", "FLOPs")]
    for rung in rungs:
        ratio = f"{rung.tokens / rung.parameters:.3g}"
        rows.append(
            (
                rung.name,
                rung.shape.describe(),
                f"{rung.parameters:,}",
                format_count(rung.tokens),
                ratio,
                f"{rung.steps:,}",
                f"{rung.flops:.3e}",
            )
        )
    total = sum(rung.flops for rung in rungs)
    return "\n".join([*table(rows), f"  {len(rungs)} runs, {total:.3e} FLOPs in all"])


def _numbers(flag: "flags.FlagHolder[list[str]]") -> list[float]:
    try:
        found = [float(text) for text in flag.value]
    except ValueError:
        found = [0.0]
    if not all(0 < value < float("inf") for value in found):
        raise UserError(
            f"--{flag.name}={','.join(flag.value)}: expected numbers above 0, such as --{flag.name}=1e13,3e13"
        )
    return found


if __name__ == "__main__":
    cli.run(main)
