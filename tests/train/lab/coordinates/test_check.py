"""The coordinate check: the sizes that it measures, its verdicts, and the real thing on small models."""

import dataclasses
import math

import numpy as np
import pytest

from model.errors import UserError
from model.options.assignments import override
from model.parameters.parametrization import CompleteP, MuP, Standard
from tests.benchmarks.mup_transfer import best, final_losses, model_of
from train.lab.coordinates.check import check
from train.lab.coordinates.measure import Measured, Sizes

MUP, COMPLETE = MuP(base_width=32), CompleteP(base_width=32, base_layers=2)


def of(experiment, parametrization, *settings):
    for setting in settings:
        experiment = override(experiment, setting)
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, parametrization=parametrization))


def test_slopes_and_verdicts(experiment, made_up):
    own, standard = check(of(experiment, MUP), widths=(64, 32, 128), seeds=(0, 1))
    assert (own.parametrization, own.axis, own.sizes) == ("MuP", "width", (32, 64, 128))
    assert own.flat
    assert own.verdict.startswith("flat in width")
    assert not standard.flat
    assert standard.verdict == "NOT flat in width (steepest: block_output after, slope +1.00)"
    stream, change, sublayer, _ = standard.curves
    assert (stream.kind, stream.when, change.when, stream.judged) == ("block_output", "after", "change", True)
    np.testing.assert_allclose(stream.sizes, [64 * 1.1**0.5 * n for n in (1, 2, 4)])
    assert stream.slope == pytest.approx(1)
    assert stream.spread == pytest.approx(0, abs=1e-9)
    assert not sublayer.judged
    assert own.losses == ((3.0, 2.0),) * 3
    only_one = check(of(experiment, MUP), widths=(32, 64))[0].curves[0]
    assert math.isnan(only_one.spread)


def test_a_base_model_is_measured_once(experiment, monkeypatch):
    """It is that of the standard parametrisation, at its width and at its depth."""
    seen = []

    def measure(experiment, **settings):
        seen.append((experiment.model.width, experiment.model.num_layers, experiment.model.parametrization))
        sizes = Sizes(start=(1.0,), after=(1.0,), change=(1.0,))
        yield Measured(sizes={"block_output": sizes}, losses=(3.0, 2.0))

    monkeypatch.setattr("train.lab.coordinates.check.measure", measure)
    check(of(experiment, COMPLETE), widths=(32, 64), depths=(2, 4))
    assert seen == [
        (32, 2, Standard()),
        (64, 2, COMPLETE),
        (64, 2, Standard()),
        (32, 4, COMPLETE),
        (32, 4, Standard()),
    ]


def test_what_is_compared(experiment, made_up):
    names = lambda e: [sweep.parametrization for sweep in check(e, widths=(32, 64), depths=(2, 4))]  # noqa: E731
    assert names(of(experiment, Standard())) == ["Standard", "CompleteP"] * 2
    assert names(of(experiment, COMPLETE)) == ["CompleteP", "Standard"] * 2
    assert names(of(experiment, Standard(), "optimizer=SGD")) == ["Standard", "MuP"] * 2
    assert names(of(experiment, Standard(), "model.residual=HyperConnections")) == ["Standard"] * 2
    # A single head becomes wider.
    assert names(of(experiment, Standard(), "model.mixer.num_heads=1")) == ["Standard", "CompleteP"] * 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "no sizes to compare: give --widths"),
        ({"widths": (64, 64)}, "--widths=64: a slope needs at least two different sizes"),
        ({"depths": (0, 2)}, "--depths=0,2: a slope needs"),
        ({"widths": (32, 64), "seeds": ()}, "--seeds: at least one"),
        ({"widths": (32, 36)}, "GroupedQuery.num_heads=4 cannot be 1.125 times as large: that is 4.5"),
        ({"depths": (2, 20_000)}, "depth 20000: this model cannot be built"),
    ],
)
def test_mistakes_end_it_before_anything_is_measured(given, expected, experiment, monkeypatch):
    monkeypatch.setattr("train.lab.coordinates.check.measure", None)
    with pytest.raises(UserError, match=expected):
        check(of(experiment, MUP), **given)


@pytest.mark.sweep
def test_flat_under_completep_and_not_under_the_standard_parametrisation(experiment):
    """The real thing, with as few models as it takes; those of the sweep have more widths, depths and seeds."""
    found = check(of(experiment, COMPLETE), widths=(32, 256), depths=(2, 8), steps=5, rows=2)
    verdicts = {(sweep.axis, sweep.parametrization): (sweep.flat, sweep.verdict) for sweep in found}
    for axis in ("width", "depth"):
        assert verdicts[axis, "CompleteP"][0], verdicts
        assert not verdicts[axis, "Standard"][0], verdicts
    (width, _, depth, _) = (
        {(curve.kind, curve.when): curve.slope for curve in sweep.curves}
        for sweep in sorted(found, key=lambda sweep: (sweep.axis != "width", sweep.parametrization))
    )
    # Each sublayer writes 1/n of its output: what CompleteP is.
    assert depth["ffn_output", "after"] == pytest.approx(-1, abs=0.35)
    assert abs(width["ffn_output", "after"]) < 0.3


@pytest.mark.sweep
@pytest.mark.parametrize(
    "settings",
    [
        ["model.ffn=Gated(width=64)", "model.unembedding=Untied", "model.position=Rotary"],
        ["model.initialization=FanIn", "model.residual=Sandwich"],
        ["model.mixer=GroupedQuery(num_heads=4, num_kv_heads=1)"],
        ["model.mixer=Latent(num_heads=4, kv_rank=16, head_dim=8, rotary_head_dim=4, value_head_dim=8)",
         "model.position=Rotary"],
        ["model.mixer=GatedDelta(num_heads=4)"],
        ["model.mixer=StateSpace(num_heads=4, state_dim=8)"],
        ["model.mixer=LSTM(num_heads=4)"],
        ["model.ffn=Experts(num_experts=4, top_k=2, expert=MLP(width=32), shared=Shared(ffn=MLP(width=32)))"],
    ],
)  # fmt: skip
def test_every_mechanism_is_flat_in_width(settings, experiment):
    own, _ = check(of(experiment, MUP, *settings), widths=(32, 64, 128, 256), seeds=(0, 1))
    assert own.flat, own.verdict


@pytest.mark.sweep
@pytest.mark.parametrize("optimizer", ["AdamW", "Lion", "Adafactor", "ScheduleFreeAdamW", "Muon", "SGD(momentum=0.9)"])
def test_every_optimizer_is_flat_in_width(optimizer, experiment):
    rate = {"Lion": 0.005, "SGD(momentum=0.9)": 0.1}.get(optimizer, 0.02)  # SGD diverges at 1, in the base model too
    own, _ = check(of(experiment, MUP, f"optimizer={optimizer}"), widths=(32, 64, 128, 256), rate=rate, seeds=(0, 1))
    assert own.flat, own.verdict


@pytest.mark.sweep
def test_wider_heads_are_flat_in_width_and_more_layers_in_depth(experiment):
    wider = MuP(base_width=32, wider="head_dim")
    own, _ = check(of(experiment, wider), widths=(32, 64, 128, 256), seeds=(0, 1))
    assert own.flat, own.verdict
    own, other = check(of(experiment, COMPLETE), depths=(2, 4, 8, 16), seeds=(0, 1))
    assert own.flat, own.verdict
    assert not other.flat, other.verdict


@pytest.mark.sweep
def test_the_best_rate_of_a_narrow_model_is_that_of_a_wide_one_within_a_step_of_the_grid():
    """A small form of tests/benchmarks/mup_transfer.py: widths 64 and 256, rates in steps of 2, 60 steps."""
    rates = [2.0**x for x in range(-10, -4)]
    narrow, wide = (
        best(final_losses(model_of(width, MuP(base_width=64), layers=1), rates, (0,), steps=60)) for width in (64, 256)
    )
    assert 0 < narrow < len(rates) - 1
    assert abs(narrow - wide) <= 1
