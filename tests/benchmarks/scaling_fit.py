"""The scaling law of Hoffmann et al. 2022 refitted: our fit beside the published re-analysis of the same runs.

    python -m tests.benchmarks.scaling_fit --points=../shared/data/chinchilla_points.csv

The file has the columns "Model Size", "Training FLOP" and "loss" of Epoch AI's data/svg_extracted_data.csv
(epoch-research/analyzing-chinchilla), which is not part of this project. As in the re-analysis (Besiroglu et al. 2024,
"Chinchilla Scaling: A Replication Attempt") D is C / (6 N), the five runs of highest loss, the first five rows, are left
out, and standard errors are those of 4,000 resamples of runs. Exit status 1 if a number is further from the published
one than its published standard error.
"""

import argparse
import csv
import time

import numpy as np

from tests.benchmarks.command import answer_help, fail, path, run

answer_help(__name__, __doc__)

# Numbers and standard errors: Besiroglu et al. 2024, as their notebook prints them.
PUBLISHED = {
    "E": (1.817, 0.026),
    "A": (482.01, 124.5),
    "B": (2085.43, 1293.0),
    "alpha": (0.3478, 0.015),
    "beta": (0.3659, 0.021),
}
LEFT_OUT = 5
COLUMNS = ("Model Size", "Training FLOP", "loss")


def main() -> None:
    """Reads the file, fits and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=path, required=True)
    parser.add_argument("--draws", type=int, default=4000)
    options = parser.parse_args()

    from train.lab.scaling.analysis import analyse
    from train.lab.scaling.points import Points
    from train.lab.scaling.words import describe, table

    with options.points.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(COLUMNS) <= set(rows[0]):
        fail(f"{options.points}: expected the columns {', '.join(COLUMNS)}")
    n, c, loss = (np.array([float(row[name]) for row in rows[LEFT_OUT:]]) for name in COLUMNS)
    began = time.perf_counter()
    found = analyse(Points.of(n, c / (6 * n), loss, c), at=[5.76e23], draws=options.draws, resampling="points")
    seconds = time.perf_counter() - began
    print(describe(found))
    lines, outside = [("", "published", "ours", "apart, in published std. errors", "std. error, ours")], []
    for name, (value, error) in PUBLISHED.items():
        own = found.law.interval(name).value
        apart = (own - value) / error
        lines.append(
            (name, f"{value:g} ({error:g})", f"{own:.4f}", f"{apart:+.3f}", f"{found.law.standard_error(name):.3g}")
        )
        outside += [name] if abs(apart) > 1 else []
    print("\n".join(["", *table(lines)]))
    print(f"{len(loss)} runs; all fits and {options.draws:,} resamples took {seconds:.1f} s")
    if outside:
        print(f"outside one published standard error: {', '.join(outside)}")
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
