"""The instrument of head roles: names of heads, its page."""

import numpy as np

from train.inspection.attention.roles import inspect, named
from train.inspection.attention.scores import OFFSET, ROLES, HeadScores
from train.run.loading import load_run


def test_heads_are_named_after_roles_from_a_threshold_on():
    scores = {role: {0: np.zeros(2), 3: np.zeros(1)} for role in ROLES}
    scores["previous_token"][0] = np.array([0.39, 0.41])
    scores["repeated"][3] = np.array([0.9])
    scores["first_token"][0] = np.array([0, 0.6])
    assert named(HeadScores(scores, {})) == {(0, 1): ["previous token", "first token"], (3, 0): ["induction"]}


def test_the_page_of_a_run(tiny_run, tmp_path):
    result = inspect(load_run(tiny_run), half=5, sequences=2)
    assert len(result.numbers["heads"]) == 8
    assert set(result.numbers["heads"][0]) == {"layer", "head", OFFSET, *ROLES}
    page = result.write(tmp_path).read_text()
    assert "The best head of each role" in page
    assert result.lines[0].startswith("previous token: best 0.")
