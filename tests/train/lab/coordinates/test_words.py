"""The table and the JSON of a coordinate check."""

import json

from train.lab.coordinates.check import Curve, Sweep
from train.lab.coordinates.words import as_json, table

CURVES = (
    Curve(kind="block_output", when="after", sizes=(0.5, 1.0), slope=1.0, spread=0.02, judged=True),
    Curve(kind="mixer_output", when="change", sizes=(0.5, 0.25), slope=-1.0, spread=float("nan"), judged=False),
    Curve(
        kind="logits", when="change", sizes=(float("nan"), 1.0), slope=float("inf"), spread=float("nan"), judged=True
    ),
)
SWEEP = Sweep(axis="width", parametrization="Standard", sizes=(64, 128), losses=((3.0, 2.0), (3.0, 1.5)), curves=CURVES)


def test_the_table():
    assert table(SWEEP).splitlines() == [
        "Standard: NOT flat in width (steepest: logits change, slope +inf)",
        "                        width 64  width 128         slope",
        "  block_output  after        0.5          1  +1.00 ± 0.02  not flat",
        "  mixer_output  change       0.5       0.25         -1.00  not judged",
        "  logits        change       nan          1          +inf  not flat",
        "  loss          after      2.000      1.500",
    ]


def test_the_json():
    found = as_json([SWEEP])
    (sweep,) = found["sweeps"]
    assert found["flat_below"] == 0.35
    assert (sweep["flat"], sweep["verdict"]) == (False, SWEEP.verdict)
    assert [curve["slope"] for curve in sweep["curves"]] == [1.0, -1.0, None]
    assert [curve["flat"] for curve in sweep["curves"]] == [False, False, False]
    assert json.loads(json.dumps(sweep["curves"][0])) == sweep["curves"][0] | {"sizes": [0.5, 1.0]}
