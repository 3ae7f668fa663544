"""Rebuilds the report of a run or of a sweep, finished or still running.

    python -m launch.report --run=runs/quickstart
    python -m launch.report --run=runs/quickstart --curve=loss.png
    python -m launch.report --run=runs/positions --documents
    python -m launch.report --run=runs/positions --larger=runs/positions_large
    python -m launch.report --run=runs/mixers --reach --lengths=64,256,1024

Writes RUN/report.html, which opens in any browser without a network, and prints the numbers at its head. --curve also
writes the loss curves of a run as a picture.

In the folder of a sweep it also writes results.csv (a line for every run), results.md and results.tex (the table).
--documents evaluates every finished run of a sweep document by document, once, for intervals over documents. --larger
names a sweep of the same variants on a larger model: how often is the better of two variants the better one there?
--reach measures how far back the finished runs look: the gradient of a loss by the embeddings of the tokens before, by
their distance. --lengths times a forward and backward pass of every variant with rows of each length, with as many
tokens in all. What was measured stays in the folder, and every later report of the sweep has it.
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
REACH = flags.DEFINE_bool("reach", False, "Measures how far back the runs of a sweep look.")
LENGTHS = flags.DEFINE_list("lengths", [], "Times every variant of a sweep with rows of these lengths.")

_OF_A_RUN = ("config.json", "metrics.jsonl", "environment.json", "status.json")


def main(argv: list[str]) -> int:
    """Reads the flags and writes the report."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --run=runs/quickstart")
    if RUN.value is None:
        raise UserError("--run is missing: the report of which run? Try --run=runs/quickstart")
    from train.lab.folder import is_sweep

    run = local_path(RUN.value, "a run folder whose report is written")
    if is_sweep(run):
        return report_sweep(run)
    for flag in (DOCUMENTS, LARGER, REACH, LENGTHS):
        name = flag.name
        if flag.value:
            raise UserError(f"--{name} is for a sweep, and {run} holds no sweep.json; leave it out")
    return report_run(run)


def report_run(run: pathlib.Path) -> int:
    """Writes the report of a run and prints its head."""
    from train.report import summary, write_curve_png, write_report

    if run.is_dir() and not any((run / name).exists() for name in _OF_A_RUN):
        raise UserError(
            f"{run} is neither a run folder nor that of a sweep: it has none of {', '.join((*_OF_A_RUN, 'sweep.json'))}"
            "; give a folder such as launch.train or launch.sweep makes"
        )
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
        cli.prepare_jax()
        measure_documents(read_results(folder), say=cli.print_escaped)
    if REACH.value or LENGTHS.value:
        measure_mixing(folder)
    path, analysis = write_sweep_report(folder, LARGER.value)
    print(summary(analysis))
    cli.print_escaped(f"report: {path}")
    return 0


def measure_mixing(folder: pathlib.Path) -> None:
    """Measures how the variants of a sweep mix tokens, as the flags ask."""
    lengths = cli.numbers_from(LENGTHS, "number of tokens", "--lengths=64,256,1024")
    cli.prepare_jax()
    from train.lab.mixing.lengths import measure_lengths
    from train.lab.mixing.reach import measure_reach
    from train.lab.results import read_results

    if REACH.value:
        measure_reach(read_results(folder), cli.print_escaped)
    if lengths:
        measure_lengths(read_results(folder), lengths, cli.print_escaped)


if __name__ == "__main__":
    cli.run(main)
