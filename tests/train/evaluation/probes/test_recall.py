import math

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.evaluation.probes.interface import generators
from train.evaluation.probes.recall import Recall

TASK = Recall(num_pairs=4, num_keys=20, num_values=30, length=40)


def test_every_key_is_asked_once_and_its_value_is_the_target():
    made = TASK.sequences(generators(0, "train", range(6)))
    for tokens, targets, weights in zip(*made, strict=True):
        pairs = dict(zip(tokens[:8:2].tolist(), tokens[1:8:2].tolist(), strict=True))
        assert len(pairs) == len(set(pairs.values())) == 4
        asked = np.nonzero(weights)[0]
        assert {int(tokens[t]): int(targets[t]) for t in asked} == pairs
        assert len(asked) == 4
        assert min(asked) >= 8
        others = np.setdiff1d(np.arange(8, 40), asked)
        assert tokens[others].min() >= 20  # no other key, so the question is known by its key


def test_short_gaps_are_more_frequent():
    made = TASK.sequences(generators(0, "train", range(400)))
    asked = np.nonzero(made.weights)[1]
    even = Recall(num_pairs=4, num_keys=20, num_values=30, length=40, power=1.0)
    assert asked.mean() < np.nonzero(even.sequences(generators(0, "train", range(400))).weights)[1].mean() - 1


def test_findings_by_distance():
    made = TASK.sequences(generators(0, "train", range(200)))
    rows, asked = np.nonzero(made.weights)
    hits = np.zeros(made.tokens.shape, bool)
    gaps = []
    for n, t in zip(rows, asked, strict=True):
        gap = t - made.tokens[n].tolist().index(made.tokens[n, t])
        hits[n, t] = gap < 20
        gaps.append(gap)
    found = TASK.findings(made, np.ones(made.tokens.shape), hits)
    (curve,) = found.pictures
    middle = next(i for i, x in enumerate(curve.x) if x > 20)
    assert set(curve.lines["model"][: middle - 1]) <= {1.0, None}
    assert set(curve.lines["model"][middle:]) <= {0.0, None}
    assert found.numbers["accuracy"] == pytest.approx(np.mean(np.array(gaps) < 20))
    assert found.baselines == {"any stored value": math.log(4), "uniform": math.log(30)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"length": 31}, r"length: must be at least 4 \* num_pairs = 32, got 31"),
        ({"num_keys": 7}, "num_keys: must be at least 8, got 7"),
        ({"power": 0.0}, "power: must be above 0"),
    ],
)
def test_refused(fields, words):
    with pytest.raises(UserError, match=words):
        check(Recall(**fields))
