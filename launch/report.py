"""Rebuilds the report of a run or of a sweep, finished or still running.

    python -m launch.report --run=runs/quickstart
    python -m launch.report --run=runs/quickstart --curve=loss.png
    python -m launch.report --run=runs/positions --documents
    python -m launch.report --run=runs/positions --larger=runs/positions_large

Writes RUN/report.html, which opens in any browser without a network, and prints the numbers at its head. --curve also
writes the loss curves of a run as a picture.

In the folder of a sweep it also writes results.csv (a line for every run), results.md and results.tex (the table).
--documents evaluates every finished run of a sweep document by document, once, for intervals over documents. --larger
names a sweep of the same variants on a larger model: how often is the better of two variants the better one there?
"""

import pathlib

from absl import flags

from launch.command import cli
from model.errors import UserError
from train.files.paths import local_path

RUN = cli.define_path("run", None, "The run folder.")
CURVE = cli.define_path("curve", None, "A file for the loss curves as a picture; its name ends in .png.")
DOCUMENTS = flags.DEFINE_bool("documents", False, "Evaluates the runs of a sweep on every document, for intervals.")
LARGER = flags.DEFINE_multi_string("larger", [], "A sweep of the same variants on a larger model; may be repeated.")


def main(argv: list[str]) -> int:
    """Reads the flags and writes the report."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --run=runs/quickstart")
    if RUN.value is None:
        raise UserError("--run is missing: the report of which run? Try --run=runs/quickstart")
    given = local_path(RUN.value, "a run folder whose report is written")
    if (given / "sweep.json").is_file():
        return report_sweep(given)
    for name, value in (("documents", DOCUMENTS.value), ("larger", LARGER.value)):
        if value:
            raise UserError(f"--{name} is for a sweep, and {given} holds no sweep.json; leave it out")
    return report_run(given)


def report_run(run: pathlib.Path) -> int:
    """Writes the report of a run and prints its head."""
    from train.report import summary, write_curve_png, write_report

    path = write_report(run)
    print(summary(run))
    cli.print_escaped(f"report: {path}")
    if CURVE.value is not None:
        write_curve_png(run, CURVE.value)
        cli.print_escaped(f"curve: {CURVE.value}")
    return 0


def report_sweep(folder: pathlib.Path) -> int:
    """Writes the report of a sweep and prints its table."""
    from train.lab.documents import measure_documents
    from train.lab.report import summary, write_sweep_report
    from train.lab.results import read_results

    if CURVE.value is not None:
        raise UserError("--curve draws one run; the report of a sweep has the curves of all: leave --curve out")
    if DOCUMENTS.value:
        measure_documents(read_results(folder), say=cli.print_escaped)
    path, analysis = write_sweep_report(folder, LARGER.value)
    print(summary(analysis))
    cli.print_escaped(f"report: {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
