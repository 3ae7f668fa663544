"""The function of a name or a file; tests/train/alignment/test_rewards.py runs the process."""

from train.alignment.reward_worker import NAMED, find


def test_a_function_of_a_file_and_a_known_one(tmp_path):
    (tmp_path / "own.py").write_text("def twice(prompt, answer, fields):\n    return 2 * len(answer)\n")
    assert find(f"{tmp_path / 'own.py'}:twice")("", "abc", {}) == 6
    assert find("exact") is NAMED["exact"]
