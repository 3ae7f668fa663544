import math

import numpy as np
import pytest
from scipy import stats

from model.errors import UserError
from tests.train.lab.statistics.draws import DRAWS, by_seed
from train.lab.statistics.claims import Claim

CLAIM = Claim.parse("loss <= 3.28, p < 0.001")
GOOD = {0: 3.2771, 1: 3.2770, 2: 3.2774, 3: 3.2768}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss <= 3.28, p < 0.001", ("loss", True, 3.28, 0.001)),
        ("  accuracy>0.5,p<=.05", ("accuracy", False, 0.5, 0.05)),
        ("wiki/bits_per_byte < 1e0 , p < 5e-2", ("wiki/bits_per_byte", True, 1.0, 0.05)),
        ("difference >= -0.01, p < 0.01", ("difference", False, -0.01, 0.01)),
    ],
)
def test_reading(text, expected):
    claim = Claim.parse(text)
    assert (claim.metric, claim.at_most, claim.bound, claim.alpha) == expected
    assert Claim.parse(str(claim)) == claim


@pytest.mark.parametrize(
    "text",
    [
        "loss 3.28",
        "loss <= 3.28",
        "loss == 3, p < 0.1",
        "loss <= low, p < 0.1",
        "loss <= 1, p < 2",
        "loss <= inf, p < 0.1",
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(UserError, match="the claim 'loss"):
        Claim.parse(text)


def test_it_is_a_one_sided_t_test():
    found = CLAIM.judge(GOOD, range(4))
    expected = stats.ttest_1samp(list(GOOD.values()), 3.28, alternative="less").pvalue
    assert (found.word, found.p_value, found.n) == ("holds", pytest.approx(expected), 4)
    assert found.p_value < 0.001
    by_hand = (np.mean(list(GOOD.values())) - 3.28) / (np.std(list(GOOD.values()), ddof=1) / 2)
    assert found.p_value == pytest.approx(stats.t.cdf(by_hand, 3))
    assert Claim.parse("loss >= 3.28, p < 0.001").judge(GOOD, range(4)).p_value == pytest.approx(1 - expected)


def test_a_mean_below_the_bound_is_not_enough():
    assert CLAIM.judge({0: 3.26, 1: 3.27, 2: 3.279}).word == "not shown"


def test_it_is_not_judged_before_all_declared_seeds_are_done():
    found = CLAIM.judge(GOOD, range(6))
    assert (found.word, found.p_value, found.mean) == ("not judged", None, None)
    assert found.text == "not judged: of 6 declared seeds seeds 4, 5 have no final value"
    assert CLAIM.judge(GOOD, (0, 1, 2)).word == "not judged"  # seed 3 was added after the others were seen
    assert CLAIM.judge({0: 3.0}, (0,)).word == "not judged"


def test_a_diverged_run_does_not_help():
    found = CLAIM.judge(GOOD | {3: math.nan}, range(4))
    assert (found.word, found.p_value) == ("not shown", 1.0)


def test_equal_values():
    assert CLAIM.judge({0: 3.0, 1: 3.0}).p_value == 0.0
    assert CLAIM.judge({0: 3.28, 1: 3.28}).p_value == 1.0
    assert CLAIM.judge({0: 4.0, 1: 4.0}).p_value == 1.0


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_false_claim_holds_at_the_stated_rate(n):
    """The truth lies on the bound. Someone who looked after every seed and stopped at a good one would find more."""
    claim = Claim.parse("loss <= 3.28, p < 0.05")
    values = 3.28 + 0.01 * np.random.default_rng(n).normal(size=(DRAWS, n))
    looks = [[claim.judge(by_seed(row[:k]), range(n)).word for k in range(2, n + 1)] for row in values]
    assert np.mean(["holds" in words for words in looks]) == pytest.approx(0.05, abs=0.02)
    stopped = [any(claim.judge(by_seed(row[:k])).word == "holds" for k in range(2, n + 1)) for row in values[:300]]
    assert np.mean(stopped) > 0.065
