"""The function of a name or a file; tests/train/alignment/test_rewards.py runs the process."""

import pytest

from train.alignment.reward_worker import NAMED, NEEDS, find


def test_a_function_of_a_file_and_a_known_one(tmp_path):
    (tmp_path / "own.py").write_text("def twice(prompt, answer, fields):\n    return 2 * len(answer)\n")
    assert find(f"{tmp_path / 'own.py'}:twice")("", "abc", {}) == 6
    assert find("exact") is NAMED["exact"]


def test_similarity_is_twice_the_common_characters_over_all():
    rewards = [find("similarity")("", answer, {"answer": "abce"}) for answer in ("abce", "abcd", "abcexxxx", "xyz", "")]
    assert rewards == [1, 6 / 8, 8 / 12, 0, 0]


@pytest.mark.parametrize(
    ("answer", "right", "reward"),
    [
        ("so it is $\\frac{1}{2}$", "0.5", 1),
        ("\\boxed{x + 1}", "$1+x$", 1),
        ("12 and 8 make 20", "20", 1),
        ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", 1),
        ("21", "20", 0),
        ("", "20", 0),
    ],
)
def test_formulas_that_are_equal(answer, right, reward):
    assert find("math")("", answer, {"answer": right}) == reward


def test_a_task_of_reasoning_gym_scores_its_own_rows(tmp_path, monkeypatch):
    score = "def get_score_answer_fn(name):\n    return lambda answer, entry: (name, answer, entry['answer'])\n"
    (tmp_path / "reasoning_gym.py").write_text(score)
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"answer": "4", "metadata": {"source_dataset": "leg_counting"}}
    assert find("reasoning_gym")("how many legs?", "4", fields) == ("leg_counting", "4", "4")


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(NEEDS, "math", ("no_such_module", "math"))
    with pytest.raises(ImportError, match=r"it needs no-such-module; pip install -e '.\[math\]'"):
        find("math")
