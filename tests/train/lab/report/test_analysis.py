import dataclasses
import math

import numpy as np
import pytest

from model.errors import UserError
from tests.train.lab.sweeps import OFFSETS, final
from train.lab.report.analysis import analyse
from train.lab.statistics.claims import Claim
from train.lab.statistics.power import power
from train.lab.statistics.speedup import Speedup
from train.lab.statistics.variants import compare_variants

SEEDS = (0, 1, 2)
VALUES = {name: {seed: final(name, seed) for seed in SEEDS} for name in OFFSETS}


def changed(analysis, **content):
    """The analysis of the same runs with another sweep.json."""
    results = analysis.results
    return analyse(dataclasses.replace(results, content=results.content | content))


def rows(analysis):
    return {row.name: row for row in analysis.rows}


def test_variants_are_ranked_and_compared(finished):
    assert [row.name for row in finished.rows] == ["wide", "base", "same", "slow"]
    assert finished.state == "finished"
    assert finished.notes == []
    expected = compare_variants(VALUES, "base", SEEDS)
    assert {row.name: row.comparison for row in finished.rows if not row.is_base} == expected
    assert finished.words() == {"better": ["wide"], "not shown": ["same"], "worse": ["slow"]}
    wide = rows(finished)["wide"]
    values = list(VALUES["wide"].values())
    assert (wide.mean, wide.deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert finished.base.comparison is None


def test_missing_runs_are_named_and_not_judged(broken):
    assert broken.state == "incomplete"
    assert broken.notes == [
        "1 of 15 runs: missing (same seed 1). They are not in the means below.",
        "1 of 15 runs: failed (slow seed 2). They are not in the means below.",
        "1 of 15 runs: diverged (hot_100% seed 1). They are not in the means below.",
    ]
    assert broken.words() == {"better": ["wide"], "not judged": ["same", "slow", "hot_100%"]}
    found = rows(broken)
    assert [run.state for run in found["slow"].missing] == ["failed"]
    assert found["slow"].comparison.difference.n == 2
    assert math.isfinite(found["hot_100%"].mean)
    assert broken.rows[-1].name == "hot_100%"


def test_the_rank_is_that_of_the_difference_over_common_seeds(broken):
    """The run of "same" that is missing has the lowest loss, so the mean of the others is above that of "slow"."""
    found = rows(broken)
    assert found["same"].comparison.difference.mean == pytest.approx(
        np.mean([found["same"].values[s] - found["base"].values[s] for s in (0, 2)])
    )
    order = [row.comparison.difference.mean if row.comparison else 0.0 for row in broken.rows[:-1]]
    assert order == sorted(order)


def test_a_claim_is_judged_of_every_variant(finished):
    claim = Claim.parse("loss <= 1.78, p < 0.01")
    assert {row.name: row.judgement for row in finished.rows} == {n: claim.judge(v, SEEDS) for n, v in VALUES.items()}
    assert rows(finished)["wide"].judgement.word == "holds"
    other = rows(changed(finished, claim="wiki/loss >= 2.7, p < 0.05"))
    assert other["wide"].judgement == Claim.parse("wiki/loss >= 2.7, p < 0.05").judge(
        {s: v + 1 for s, v in VALUES["wide"].items()}
    )
    assert rows(changed(finished, claim=None))["wide"].judgement is None
    with pytest.raises(UserError, match="the claim 'loss is low'"):
        changed(finished, claim="loss is low")


def test_a_claim_about_the_difference(broken):
    found = rows(broken)
    differences = {seed: VALUES["wide"][seed] - VALUES["base"][seed] for seed in SEEDS}
    assert found["wide"].judgement.p_value == pytest.approx(
        Claim.parse("difference <= -0.03, p < 0.05").judge(differences).p_value
    )
    assert found["wide"].judgement.word == "holds"
    assert found["base"].judgement is None
    assert found["slow"].judgement.word == "not judged"


def test_speedups(finished, broken):
    found = rows(finished)
    # The curve is 1.5 + 4 s^-1/2, so a loss that is lower by 0.06 everywhere is reached at another step.
    steps = np.mean([np.log(200 / (4 / (VALUES["base"][s] - VALUES["wide"][s] + 4 / 200**0.5)) ** 2) for s in SEEDS])
    assert found["wide"].speedups["steps"].ratio == pytest.approx(math.exp(steps), rel=0.02)
    assert found["wide"].speedups["tokens"].ratio == pytest.approx(found["wide"].speedups["steps"].ratio)
    # Its step takes more FLOPs; the step of "slow" takes less time.
    sizes = [found[name].variant.sizes.flops_per_token for name in ("base", "wide")]
    assert found["wide"].speedups["flops"].ratio == pytest.approx(
        found["wide"].speedups["steps"].ratio * sizes[0] / sizes[1]
    )
    assert found["slow"].speedups["seconds"].ratio == pytest.approx(1.5 * found["slow"].speedups["steps"].ratio)
    assert found["base"].speedups == {}
    assert isinstance(found["slow"].speedups["steps"], Speedup)
    assert set(rows(broken)["slow"].speedups.values()) == {"slow has no final value for seed 2"}
    assert set(rows(changed(finished, metric="accuracy"))["wide"].speedups.values()) == {"only of a loss"}


def test_noise_and_the_smallest_difference_shown(finished):
    variances = [np.var(list(values.values()), ddof=1) for values in VALUES.values()]
    assert finished.noise == pytest.approx(math.sqrt(np.mean(variances)))
    deviation = np.median([row.comparison.difference.deviation for row in finished.rows if row.comparison])
    assert power(finished.shown / deviation, 3, 0.05 / 3) == pytest.approx(0.8, abs=1e-6)
    assert changed(finished, alpha=None).shown is None


def test_one_seed_has_neither_difference_nor_noise(finished):
    one = changed(finished, seeds=[0])
    assert {row.comparison.verdict.text for row in one.rows if row.comparison} == {
        "not judged: a verdict takes at least two seeds"
    }
    assert [row.name for row in one.rows] == ["wide", "base", "same", "slow"]


def test_means_of_other_numbers(finished):
    assert rows(finished)["slow"].mean_of("tokens_per_second") == 1500.0
    run = dataclasses.replace(rows(finished)["slow"].variant.runs[0], peak_bytes=None)
    variant = dataclasses.replace(rows(finished)["slow"].variant, runs={0: run})
    assert dataclasses.replace(rows(finished)["slow"], variant=variant).mean_of("peak_bytes") is None
