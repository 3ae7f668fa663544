"""The planner's step times against published ones: every row of a file of speeds, predicted from its configuration.

    python -m tests.benchmarks.plan_accuracy [pod_speeds.csv] [--cross_validate] [--fit] [--breakdown]

The file has the columns of pod_speeds.csv, and model_shapes.json lies beside it; without a path, ../shared/data is
tried. Prints each row, then the median absolute error and Spearman's rank correlations of step time and of tokens a
second a chip: over all rows, by kind of model, and by chip.

`--cross_validate` adds the errors with guessed constants, and those of rows whose model, source file, or project had no
part in the fit (some minutes).
`--fit` fits the constants to the file and prints them as train/parallel/planner/efficiency.py states them.
`--breakdown` prints where each predicted step spends its time.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from tests.benchmarks.command import ROOT, answer_help, fail, path, run

answer_help(__name__, __doc__)

DEFAULT = ROOT.parent / "shared" / "data" / "pod_speeds.csv"


def summary(name: str, errors: np.ndarray, seconds: np.ndarray, speeds: np.ndarray) -> str:
    """A line about some rows: their number, errors, and rank correlations where more than two ranks can be compared.

    Args:
      name: of the rows.
      errors: logarithms of predicted by published seconds.
      seconds, speeds: published seconds of a step, and tokens a second a chip.
    """
    from scipy.stats import spearmanr

    relative = 100 * np.abs(np.expm1(errors))
    line = f"{name:34} {len(errors):4} rows  median {np.median(relative):5.1f}%  nine of ten below "
    line += f"{np.quantile(relative, 0.9):5.1f}%  bias {100 * np.expm1(np.median(errors)):+6.1f}%"
    if len(errors) < 3 or np.ptp(seconds) == 0:
        return line
    time = spearmanr(seconds * np.exp(errors), seconds)[0]
    speed = spearmanr(speeds * np.exp(-errors), speeds)[0]
    return f"{line}  rank: step time {time:.3f}, tokens/s {speed:.3f}"


def summaries(title: str, rows: Sequence, errors: np.ndarray, by_chip: bool) -> list[str]:
    """Lines about all rows, dense and mixtures, TPUs and GPUs, and each chip."""
    seconds = np.array([row.seconds for row in rows])
    speeds = np.array([row.job.tokens / row.job.cluster.chips for row in rows]) / seconds
    groups = {
        "all": [True] * len(rows),
        "dense": [row.family == "dense" for row in rows],
        "mixtures of experts": [row.family == "moe" for row in rows],
        "TPU": [row.job.cluster.is_tpu for row in rows],
        "GPU": [not row.job.cluster.is_tpu for row in rows],
    }
    if by_chip:
        groups |= {chip: [row.chip == chip for row in rows] for chip in dict.fromkeys(row.chip for row in rows)}
    lines = [title]
    for name, chosen in groups.items():
        keep = np.array(chosen)
        if keep.any():
            lines.append("  " + summary(name, errors[keep], seconds[keep], speeds[keep]))
    return lines


def main() -> None:
    """Reads the file and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=path, default=None)
    for name in ("cross_validate", "fit", "breakdown"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    file: pathlib.Path = DEFAULT if options.file is None else options.file
    if options.file is None and not file.is_file():
        fail(f"{file} is not there; give the path of pod_speeds.csv, with model_shapes.json beside it")

    from tests.benchmarks import plan_fit
    from tests.benchmarks.published_jobs import read_rows
    from train.parallel.planner.efficiency import FITTED
    from train.parallel.planner.step_time import time_of

    rows, left_out = read_rows(file)
    if not rows:
        fail(f"{file}: no row can be predicted: {'; '.join(left_out[:3]) or 'it is empty'}")
    items = plan_fit.items_of(rows)
    constants = plan_fit.fit(items) if options.fit else FITTED
    errors = plan_fit.log_errors(items, constants)
    print(f"{'row':50} {'published s':>11} {'predicted s':>11} {'error':>7} {'tokens/s/chip':>14} {'predicted':>10}")
    for (row, loads), error in zip(items, errors, strict=True):
        predicted, speed = row.seconds * np.exp(error), row.job.tokens / row.job.cluster.chips / row.seconds
        line = f"{row.name[:50]:50} {row.seconds:11.3f} {predicted:11.3f} {100 * np.expm1(error):+6.1f}%"
        print(f"{line} {speed:14,.1f} {speed * np.exp(-error):10,.1f}")
        if options.breakdown:
            print(f"    {time_of(loads, row.job.cluster.chip, row.job.cluster.slices, constants).describe()}")
    for line in left_out:
        print(f"left out: {line}")
    print("\n".join(summaries("\nwith all constants fitted to these rows" if options.fit else "", rows, errors, True)))
    if options.cross_validate:
        guessed = plan_fit.log_errors(items, plan_fit.GUESS)
        print("\n".join(summaries("\nwith the guesses, nothing fitted", rows, guessed, False)))
        for name, group in plan_fit.GROUPS.items():
            found = plan_fit.cross_validate(items, group)
            print("\n".join(summaries(f"\nleaving out one {name} at a time", rows, found, False)))
    if options.fit:
        print("\n" + plan_fit.as_code(constants))


if __name__ == "__main__":
    run(main)
