"""Rebuilds the report of a run, finished or still running.

    python -m launch.report --run=runs/quickstart
    python -m launch.report --run=runs/quickstart --curve=loss.png

Writes RUN/report.html, which opens in any browser without a network, and prints the numbers at its head. --curve also
writes the loss curves as a picture.
"""

from launch.command import cli
from model.errors import UserError
from train.files.paths import local_path

RUN = cli.define_path("run", None, "The run folder.")
CURVE = cli.define_path("curve", None, "A file for the loss curves as a picture; its name ends in .png.")


def main(argv: list[str]) -> int:
    """Reads the flags and writes the report."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --run=runs/quickstart")
    if RUN.value is None:
        raise UserError("--run is missing: the report of which run? Try --run=runs/quickstart")
    from train.report import summary, write_curve_png, write_report

    run = local_path(RUN.value, "a run folder whose report is written")
    path = write_report(run)
    print(summary(run))
    cli.print_escaped(f"report: {path}")
    if CURVE.value is not None:
        write_curve_png(run, CURVE.value)
        cli.print_escaped(f"curve: {CURVE.value}")
    return 0


if __name__ == "__main__":
    cli.run(main)
