"""The function of a name or a file; tests/train/alignment/test_rewards.py runs the process."""

from train.alignment.reward_worker import NAMED, find


def test_a_function_of_a_file_and_a_known_one(tmp_path):
    (tmp_path / "own.py").write_text("def twice(prompt, answer, fields):\n    return 2 * len(answer)\n")
    assert find(f"{tmp_path / 'own.py'}:twice")("", "abc", {}) == 6
    assert find("exact") is NAMED["exact"]


def test_similarity_is_twice_the_common_characters_over_all():
    rewards = [find("similarity")("", answer, {"answer": "abce"}) for answer in ("abce", "abcd", "abcexxxx", "xyz", "")]
    assert rewards == [1, 6 / 8, 8 / 12, 0, 0]
