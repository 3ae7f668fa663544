"""Loss curves on meshes are that of plain FSDP, up to rounding: cases and bound of tests/benchmarks/convergence.py.

test_sharded_steps.py compares single updates from a given state; here a small error would grow from step to step.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.benchmarks.convergence import CASES, FLOOR, Row, first_beyond, losses_of

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_the_curve_of_three_axes_is_that_of_fsdp():
    plain, mixed = (losses_of(CASES[name], 10) for name in ("fsdp", "stage, fsdp, tensor"))
    assert max(Row(mixed, plain).differences) < FLOOR
    assert plain[-1] < 0.9 * plain[0]


def test_the_bound_is_ten_times_the_rounding_so_far():
    plain, reordered = (2.0, 2.0, 2.0), Row((2.0, 2.0 + 4e-5, 2.0), (2.0, 2.0, 2.0))
    assert first_beyond(Row((2.0, 2.0 + 3e-4, 2.0 + 3e-4), plain), reordered) is None
    assert first_beyond(Row((2.0, 2.0, 2.0 + 5e-4), plain), reordered) == 3
    assert first_beyond(Row((2.0 + 3e-5, 2.0, 2.0), plain), reordered) == 1


@pytest.mark.sweep
def test_every_curve_by_the_command():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.convergence"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(CASES) + 2
