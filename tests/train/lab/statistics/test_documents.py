import numpy as np
import pytest

from model.errors import UserError
from tests.train.lab.statistics.draws import DRAWS, coverage
from train.lab.statistics.documents import fewest_documents, paired_bootstrap


def corpus(rng, documents=60, truth=0.01, heavy=False):
    """Token counts from 5 to thousands, losses that documents share, and a difference of `truth`."""
    counts = np.ceil(rng.lognormal(5.0, 1.0, documents))
    hard = 0.3 * rng.normal(size=documents)
    noise = rng.standard_t(4, size=documents) if heavy else rng.normal(size=documents)
    base = counts * (3.0 + hard)
    return base, counts, counts * (3.0 + truth + hard + 0.1 * noise), counts


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "t4"])
def test_the_interval_covers(heavy):
    rng = np.random.default_rng(0)
    found = [paired_bootstrap(*corpus(rng, heavy=heavy), draws=400, seed=i) for i in range(DRAWS)]
    assert coverage(found, 0.01) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("documents", [4, 6, 10])
def test_the_interval_of_few_documents_is_wide_enough(documents):
    rng = np.random.default_rng(documents)
    found = [paired_bootstrap(*corpus(rng, documents=documents), draws=300, seed=i) for i in range(300)]
    assert coverage(found, 0.01) >= 0.89
    assert all(np.isfinite(one.high) for one in found)


def test_the_fewest_documents():
    assert [fewest_documents(level) for level in (0.5, 0.8, 0.95, 0.99, 0.999)] == [3, 4, 4, 5, 6]


def test_no_difference_is_found_at_the_stated_rate():
    rng = np.random.default_rng(1)
    found = [paired_bootstrap(*corpus(rng, truth=0.0), draws=400, seed=i).p_value for i in range(DRAWS // 2)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_it_is_the_difference_of_ratios_of_sums():
    base, counts, other, _ = corpus(np.random.default_rng(2))
    bytes_ = 2 * counts + 1
    found = paired_bootstrap(base, counts, other, bytes_, draws=200)
    assert found.mean == pytest.approx(other.sum() / bytes_.sum() - base.sum() / counts.sum())
    assert (found.n, found.design) == (60, "documents")


def test_the_error_is_that_of_resampled_documents():
    """Independent form: resample rows in a loop; the interval of many documents is 1.96 deviations of the draws."""
    arrays = corpus(np.random.default_rng(3), documents=400)
    found = paired_bootstrap(*arrays, draws=2000)
    rng = np.random.default_rng(4)
    draws = []
    for _ in range(2000):
        rows = rng.integers(400, size=400)
        base, base_counts, other, counts = (array[rows] for array in arrays)
        draws.append(other.sum() / counts.sum() - base.sum() / base_counts.sum())
    assert found.deviation / 20 == pytest.approx(np.std(draws), rel=0.1)
    assert found.high - found.mean == pytest.approx(1.96 * np.std(draws), rel=0.15)


def test_documents_are_clusters():
    """Tokens of one document are no independent evidence: to repeat each ten times leaves the interval as it is."""
    base, counts, other, _ = corpus(np.random.default_rng(5))
    once = paired_bootstrap(base, counts, other, counts)
    often = paired_bootstrap(10 * base, 10 * counts, 10 * other, 10 * counts)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_pairing_narrows_the_interval():
    base, counts, other, _ = corpus(np.random.default_rng(6))
    rows = np.random.default_rng(7).permutation(60)
    apart = paired_bootstrap(base, counts, other[rows], counts[rows], draws=500)
    together = paired_bootstrap(base, counts, other, counts, draws=500)
    assert together.high - together.low < 0.6 * (apart.high - apart.low)


def test_the_same_seed_gives_the_same_interval():
    arrays = corpus(np.random.default_rng(8))
    assert paired_bootstrap(*arrays, draws=100) == paired_bootstrap(*arrays, draws=100)
    assert paired_bootstrap(*arrays, draws=100) != paired_bootstrap(*arrays, draws=100, seed=1)


def test_equal_models_have_no_difference():
    base, counts, _, _ = corpus(np.random.default_rng(9))
    same = paired_bootstrap(base, counts, base, counts)
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([1.0, 2.0], [1, 1], [1.0], [1]), "the same documents"),
        (([1.0] * 3, [1] * 3, [1.0] * 3, [1] * 3), "at least 4 documents for an interval of 0.95, got 3"),
        (([1.0] * 4, [1, 0, 1, 1], [1.0] * 4, [1] * 4), "document 1 has no tokens for the base model"),
        (
            ([1.0] * 4, [1] * 4, [float("inf"), 2.0, 1.0, 1.0], [1] * 4),
            "document 0 has no finite loss for the other model",
        ),
    ],
)
def test_bad_input(arrays, message):
    with pytest.raises(UserError, match=message):
        paired_bootstrap(*arrays)
