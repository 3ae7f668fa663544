import itertools

import numpy as np
import pytest

from model.errors import UserError
from train.lab.statistics.corrections import holm

P = [0.01, 0.04, 0.03, 0.005]


def test_the_example_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 raised to the one before it.
    np.testing.assert_allclose(holm(P), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).size == 0


def test_it_is_the_closure_of_bonferroni_tests():
    """Independent form: a hypothesis falls if Bonferroni's test rejects every set that holds it."""
    for alpha in (0.01, 0.025, 0.05, 0.1):
        sets = [s for size in range(1, 5) for s in itertools.combinations(range(4), size)]
        rejected = {s: min(P[i] for i in s) * len(s) <= alpha for s in sets}
        expected = [all(rejected[s] for s in sets if i in s) for i in range(4)]
        assert (holm(P) <= alpha).tolist() == expected


def test_the_chance_of_any_false_finding_is_alpha():
    p = np.random.default_rng(0).uniform(size=(4000, 6))
    assert np.mean([holm(row).min() <= 0.05 for row in p]) == pytest.approx(0.05, abs=0.01)


def test_other_numbers_are_refused():
    with pytest.raises(UserError, match="p-values from 0 to 1"):
        holm([0.1, 1.2])
    with pytest.raises(UserError, match="p-values from 0 to 1"):
        holm([float("nan")])
