import math

import pytest

from model.errors import UserError
from train.lab.results import RunResult, SweepResults, VariantResult
from train.lab.scales import compare_scales
from train.lab.statistics.decisions import decision_accuracy

SMALL = {"base": (3.0, 3.2), "a": (2.8, 3.1), "b": (3.3, 3.3), "c": (2.7, 2.5)}
LARGE = {"base": (2.0, 2.2), "a": (2.3, 2.2), "b": (2.4, 2.3), "c": (1.7, 1.5)}


def sweep(tmp_path, name, values, **content):
    """A sweep of finished runs with two seeds."""

    content = {"name": name, "base": "base", "seeds": [0, 1], "metric": "loss"} | content

    def run(variant, seed, value):
        final = {} if value is None else {content["metric"]: value}
        return RunResult(variant=variant, seed=seed, folder=tmp_path, state="finished", detail="", final=final)

    variants = {
        variant: VariantResult(
            name=variant,
            **dict.fromkeys(("settings", "tuned", "held"), ()),
            note="",
            search={},
            sizes=None,
            config={},
            runs={seed: run(variant, seed, value) for seed, value in enumerate(pair)},
        )
        for variant, pair in values.items()
    }
    return SweepResults(folder=tmp_path / name, content=content, variants=variants, notes=[])


def test_the_pairs_in_the_other_order_are_named(tmp_path):
    found = compare_scales(sweep(tmp_path, "small", SMALL), sweep(tmp_path, "large", LARGE))
    assert found.reversed == [("base", "a")]
    as_seeds = [{name: dict(enumerate(pair)) for name, pair in group.items()} for group in (SMALL, LARGE)]
    assert found.accuracy == decision_accuracy(*as_seeds)
    assert (found.larger, found.left_out, found.accuracy.share) == ("large", [], pytest.approx(5 / 6))


def test_the_better_one_may_be_the_higher(tmp_path):
    def turned(values):
        return {name: tuple(-value for value in pair) for name, pair in values.items()}

    small, large = (sweep(tmp_path, n, turned(v), metric="accuracy") for n, v in (("small", SMALL), ("large", LARGE)))
    assert compare_scales(small, large).reversed == [("base", "a")]


def test_variants_that_are_not_complete_are_left_out(tmp_path):
    small = sweep(tmp_path, "small", SMALL | {"b": (3.3, math.nan), "only": (1.0, 1.0)})
    large = sweep(tmp_path, "large", LARGE | {"d": (1.0, None)})
    found = compare_scales(small, large)
    assert found.left_out == ["b", "d", "only"]
    assert found.accuracy.variants == 3


def test_sweeps_that_cannot_be_compared(tmp_path):
    small = sweep(tmp_path, "small", SMALL)
    with pytest.raises(UserError, match="expected two sweeps of one metric"):
        compare_scales(small, sweep(tmp_path, "large", LARGE, metric="bits_per_byte"))
    with pytest.raises(
        UserError, match="other have base in common with all seeds at their ends; expected at least three"
    ):
        compare_scales(small, sweep(tmp_path, "other", {"base": (1.0, 1.0)}))
