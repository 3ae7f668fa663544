import math

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.interface import generators


def test_the_second_half_repeats_the_first():
    task = Induction(num_symbols_drawn=30, length=19)
    made = task.sequences(generators(0, "train", range(5)))
    for n in range(5):
        symbols = [*made.tokens[n], made.targets[n, -1]]
        assert symbols[:10] == symbols[10:]
        assert len(set(symbols)) == 10
        # The target of column 9 is the first repeated symbol, which nothing announces.
        assert made.weights[n].tolist() == [0.0] * 10 + [1.0] * 9


def test_every_counted_target_follows_an_earlier_occurrence_of_its_input():
    task = Induction(num_symbols_drawn=30, length=19)
    made = task.sequences(generators(1, "train", range(5)))
    for n, t in zip(*np.nonzero(made.weights), strict=True):
        (earlier,) = np.nonzero(made.tokens[n, :t] == made.tokens[n, t])[0]
        assert made.tokens[n, earlier + 1] == made.targets[n, t]


def test_symbols_repeat_where_there_are_too_few():
    made = Induction(num_symbols_drawn=3, length=19).sequences(generators(0, "train", range(5)))
    assert set(np.unique(made.tokens)) == {0, 1, 2}


def test_findings_by_position():
    task = Induction(num_symbols_drawn=30, length=19)
    made = task.sequences(generators(0, "train", range(4)))
    nll = np.broadcast_to(np.arange(19.0), (4, 19))
    found = task.findings(made, nll, nll < 15)
    loss, accuracy = found.pictures
    assert loss.x == accuracy.x == tuple(range(2, 11))
    assert loss.lines["model"] == tuple(map(float, range(10, 19)))
    assert accuracy.lines["model"] == (1.0,) * 5 + (0.0,) * 4
    assert found.numbers["loss"] == 14.0
    assert found.numbers["first_half_loss"] == 4.0
    assert found.baselines == {"uniform": math.log(30)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"length": 20}, "length: must be odd"), ({"num_symbols_drawn": 1}, "must be at least 2, got 1")],
)
def test_refused(fields, words):
    with pytest.raises(UserError, match=words):
        check(Induction(**fields))


def test_each_sequence_may_have_a_period_of_its_own():
    task = Induction(num_symbols_drawn=30, length=19, shortest=4)
    made = task.sequences(generators(0, "train", range(40)))
    periods = set()
    for tokens, targets, weights in zip(*made, strict=True):
        symbols = [*tokens, targets[-1]]
        period = int((weights == 0).sum())
        periods.add(period)
        assert all(symbols[t] == symbols[t - period] for t in range(period, 20))
        assert len(set(symbols[:period])) == period
    assert periods <= set(range(4, 11))
    assert len(periods) > 4
    found = task.findings(made, np.ones((40, 19)), np.ones((40, 19), bool))
    assert found.pictures[0].x == tuple(range(2, 17))
    assert found.numbers["first_half_loss"] == 1.0
    with pytest.raises(UserError, match="shortest: must be from 1 to 10"):
        check(Induction(length=19, shortest=11))
