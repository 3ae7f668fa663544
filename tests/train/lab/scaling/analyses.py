"""An analysis with everything that one can have."""

import functools

import numpy as np

from tests.train.lab.scaling.laws import TRUTH, isoflop_points
from train.lab.scaling.analysis import HeldOut, analyse
from train.lab.scaling.envelope import Curve
from train.lab.scaling.law import Interval


@functools.cache
def full_analysis():
    """Of 15 runs with curves, one run held out and measured, one waiting."""
    points = isoflop_points(noise=3e-3)
    curves = []
    for n, c in zip(points.parameters, points.flops, strict=True):
        flops = np.geomspace(c / 100, c, 50)
        curves.append(Curve(n, flops, TRUTH.loss(n, flops / 6 / n)))
    n, d = TRUTH.optimum(1e21)
    predicted = Interval(2.8, 2.75, 2.85)
    held_out = [
        HeldOut("c1e21-n2.56B", n, d, 1e21, predicted, 0.95, measured=2.9),
        HeldOut("c1e22<script>", n, 10 * d, 1e22, Interval(2.5, 2.4, 2.6), 0.95),
    ]
    names = [f"run <{i}>" for i in range(15)]
    return analyse(points, names=names, curves=curves, at=[1e22, 1e20], draws=60, held_out=held_out, epochs=7.5)
