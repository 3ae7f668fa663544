import math

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.evaluation.probes.interface import generators
from train.evaluation.probes.needle import Needle

TASK = Needle(lengths=(24, 40), num_depths=3)


def parts(made):
    """Of each sequence: its tokens without padding, and its target."""
    for tokens, targets, weights in zip(*made, strict=True):
        (asked,) = np.nonzero(weights)[0]
        yield tokens[: asked + 1].tolist(), int(targets[asked]), tokens[asked + 1 :]


def test_the_question_is_about_one_of_several_needles():
    seen = set()
    for tokens, value, padding in parts(TASK.sequences(generators(0, "train", range(60)))):
        assert len(tokens) in (24, 40)
        assert not padding.any()
        *text, mark, key = tokens
        assert mark == 0
        needles = {text[i + 1]: text[i + 2] for i, token in enumerate(text) if token == 0}
        assert len(needles) == 3
        assert needles[key] == value
        assert all(1 <= k <= 16 < v <= 32 for k, v in needles.items())
        seen.add((len(tokens), round((text.index(key) - 1) / (len(tokens) - 5) * 2)))
    assert seen == {(length, depth) for length in (24, 40) for depth in range(3)}


def test_the_grid_shows_where_needles_are_found():
    """A model that finds needles of the first half of short texts alone."""
    made = TASK.sequences(generators(0, "train", range(200)))
    hits = np.zeros(made.tokens.shape, bool)
    for n, (tokens, _, _) in enumerate(parts(made)):
        hits[n, len(tokens) - 1] = len(tokens) == 24 and tokens.index(tokens[-1]) - 1 < 4
    found = TASK.findings(made, np.ones(made.tokens.shape), hits)
    (grid,) = found.pictures
    assert (grid.x, grid.y) == (("24", "40"), ("0%", "50%", "100%"))
    assert grid.values[0] == (1.0, 0.0)
    assert grid.values[2] == (0.0, 0.0)
    assert found.baselines == {"any value in the text": math.log(3), "uniform": math.log(16)}


def test_depths_are_places_among_the_filler():
    assert [TASK._place(depth, 11) for depth in range(3)] == [0, 6, 11]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lengths": (10,)}, "lengths: expected numbers of at least 11"),
        ({"lengths": ()}, "lengths: expected numbers of at least 11"),
        ({"num_depths": 1}, "num_depths: must be at least 2"),
        ({"num_keys": 2}, "num_keys: must be at least 3"),
    ],
)
def test_refused(fields, words):
    with pytest.raises(UserError, match=words):
        check(Needle(**fields))
