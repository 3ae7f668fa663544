import numpy as np
import pytest

from train.lab.statistics.differences import of_differences
from train.lab.statistics.documents import paired_bootstrap
from train.lab.statistics.power import power
from train.lab.statistics.verdicts import format_p, not_judged, verdict

LOWER, UNCLEAR = of_differences([-0.02, -0.021, -0.022]), of_differences([-0.02, 0.01, -0.015])


def test_better_and_worse():
    assert verdict(LOWER, LOWER.p_value).word == "better"
    assert verdict(LOWER, LOWER.p_value, lower_is_better=False).word == "worse"
    assert verdict(LOWER, LOWER.p_value).seeds_needed is None
    assert "p = 0.00" in verdict(LOWER, LOWER.p_value).text


def test_the_adjusted_p_decides():
    assert verdict(LOWER, 0.051).word == "not shown"
    assert verdict(LOWER, 0.05).word == "better"
    assert verdict(LOWER, 0.05, alpha=0.01).word == "not shown"


@pytest.mark.parametrize("comparisons", [1, 5])
def test_the_seeds_needed_reach_the_power(comparisons):
    found = verdict(UNCLEAR, UNCLEAR.p_value, comparisons=comparisons)
    effect = UNCLEAR.mean / UNCLEAR.deviation
    total = UNCLEAR.n + found.seeds_needed
    assert power(effect, total, 0.05 / comparisons) >= 0.8 > power(effect, total - 1, 0.05 / comparisons)
    assert found.text == (
        f"not shown by these 3 seeds; {found.seeds_needed} more would show such a difference, in 80% of repetitions"
    )


def test_where_no_seeds_help():
    assert verdict(of_differences([0.0, 0.0]), 1.0).text == "not shown by these 2 seeds: the results are equal"
    assert verdict(of_differences([1.0, -1.0 + 1e-9]), 1.0).seeds_needed is None
    ones = np.ones(4)
    documents = paired_bootstrap([1.0, 2.0, 3.0, 1.0], ones, [1.1, 1.9, 3.1, 0.9], ones, draws=100)
    assert verdict(documents, 0.9).text == "not shown by these 4 documents"


def test_not_judged_has_its_reason():
    assert not_judged("seed 2 failed").text == "not judged: seed 2 failed"


def test_p_values_in_words():
    assert [format_p(p) for p in (0.5, 0.0312, 0.00042, 3e-7, float("nan"))] == [
        "0.50",
        "0.031",
        "0.00042",
        "< 0.0001",
        "not defined",
    ]
