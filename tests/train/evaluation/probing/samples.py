"""Results of two probes, made by hand."""

import math

from train.evaluation.probes.interface import Curve, Findings, Grid
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.needle import Needle
from train.evaluation.probing.results import Entry, ProbeResults

CURVE = Curve(
    title="A curve", x_label="x", y_label="nats", x=(1, 2, 3), lines={"model": (1, None, 3), "known": (2, 2, 2)}
)
GRID = Grid(
    title="A grid",
    x_label="length",
    y_label="depth",
    x=("32", "64"),
    y=("0%", "100%"),
    values=((1.0, 0.25), (None, 0.0)),
)
NUMBERS = {"loss": 1.25, "loss_standard_error": 0.01, "accuracy": 0.5, "accuracy_standard_error": math.nan}
RESULTS = ProbeResults(
    run="runs/<a>",
    step=1200,
    num_sequences=64,
    seed=0,
    entries=(
        Entry("markov", MarkovChains(), Findings(numbers=NUMBERS, baselines={"bigram": 0.88}, pictures=(CURVE,))),
        Entry("needle", Needle(), Findings(numbers=NUMBERS, baselines={"uniform": 2.77}, pictures=(GRID,))),
    ),
)
