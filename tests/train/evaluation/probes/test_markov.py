import itertools
import math

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.evaluation.probes.interface import Sequences, generators
from train.evaluation.probes.markov import MarkovChains


def naive(states, k, alpha):
    """-log p of each state after the first, by counting: from pairs, and from single states."""
    bigram, unigram = [], []
    for t in range(1, len(states)):
        before, now, new = states[:t], states[t - 1], states[t]
        pairs = [b for a, b in itertools.pairwise(before) if a == now]
        bigram.append(-math.log((pairs.count(new) + alpha) / (len(pairs) + k * alpha)))
        unigram.append(-math.log((before.count(new) + alpha) / (t + k * alpha)))
    return bigram, unigram


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_strategies_equal_counting_in_a_loop(alpha):
    task = MarkovChains(num_states=4, length=30, concentration=alpha)
    made = task.sequences(generators(0, "train", range(5)))
    found = task.strategies(made)
    for n in range(5):
        states = [*made.tokens[n].tolist(), int(made.targets[n, -1])]
        bigram, unigram = naive(states, 4, alpha)
        np.testing.assert_allclose(found["bigram"][n], bigram)
        np.testing.assert_allclose(found["unigram"][n], unigram)
    np.testing.assert_allclose(found["uniform"], math.log(4))


def test_the_bigram_prediction_is_the_exact_posterior():
    """Two states: the integral over both transition probabilities under a uniform prior, on a fine grid."""
    task = MarkovChains(num_states=2, length=12)
    made = task.sequences(generators(1, "train", range(3)))
    grid = (np.arange(4000) + 0.5) / 4000  # p(1 | 0) and p(1 | 1); the rows are independent given the states
    for n in range(3):
        states = [*made.tokens[n].tolist(), int(made.targets[n, -1])]
        weights = np.ones((2, 4000))
        for t, (now, new) in enumerate(itertools.pairwise(states)):
            p = grid if new else 1 - grid
            exact = -math.log((weights[now] * p).sum() / weights[now].sum())
            assert task.strategies(made)["bigram"][n, t] == pytest.approx(exact, rel=1e-4)
            weights[now] *= p


def test_chains_have_the_transitions_that_were_drawn():
    """Long chains of one generator: the frequencies of pairs are those of its matrix; the first state is uniform."""
    task = MarkovChains(num_states=3, length=20_000, concentration=2.0)
    draws = generators(0, "train", range(2))
    made = task.sequences(draws)
    for n in range(2):
        again = generators(0, "train", range(2))[n]
        matrix = again.standard_gamma(2.0, (3, 3))
        matrix /= matrix.sum(1, keepdims=True)
        counts = np.zeros((3, 3))
        np.add.at(counts, (made.tokens[n], made.targets[n]), 1)
        np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), matrix, atol=0.02)
    first = MarkovChains(num_states=3, length=2).sequences(generators(0, "train", range(3000))).tokens[:, 0]
    np.testing.assert_allclose(np.bincount(first) / 3000, 1 / 3, atol=0.03)


def test_the_losses_of_the_plateaus_are_ordered():
    task = MarkovChains()
    made = task.sequences(generators(0, "validation", range(500)))
    losses = {name: values.mean() for name, values in task.strategies(made).items()}
    assert losses["bigram"] + 0.1 < losses["unigram"] < losses["uniform"] - 0.05


def test_findings_of_the_bayes_predictor():
    task = MarkovChains(length=15)
    made = task.sequences(generators(0, "probe", range(8)))
    found = task.findings(made, task.strategies(made)["bigram"], np.ones(made.tokens.shape, bool))
    assert found.numbers["loss_above_bayes"] == 0.0
    assert found.numbers["loss"] == found.baselines["bigram"]
    (curve,) = found.pictures
    assert curve.lines["model"] == curve.lines["bigram"]
    assert len(curve.x) == 15


def test_rows_without_mass_are_still_distributions():
    task = MarkovChains(concentration=1e-5, length=10)
    made = task.sequences(generators(0, "train", range(50)))
    assert isinstance(made, Sequences)
    assert made.targets.max() < 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_states": 1}, "num_states: must be at least 2, got 1"),
        ({"length": 1}, "length: must be at least 2, got 1"),
        ({"concentration": 0.0}, "concentration: must be above 0, got 0"),
    ],
)
def test_refused(fields, words):
    with pytest.raises(UserError, match=words):
        check(MarkovChains(**fields))
