"""Rewards in their process: known ones, a user's own, and those that raise, hang, die or return no number."""

import pytest

from model.errors import UserError
from train.alignment.rewards import Question, RewardProcess
from train.objectives.rollout_options import Reward

OWN = """
import os, time

def brevity(prompt, answer, fields):
    print("this goes to standard error")
    if answer == "raise":
        raise ValueError("no such word")
    if answer == "hang":
        time.sleep(60)
    if answer == "die":
        os._exit(3)
    return float("nan") if answer == "nan" else -len(answer)
"""


def ask(answer, wanted="abc"):
    return Question("say abc", answer, {"answer": wanted}, "prompts.jsonl, line 7")


@pytest.fixture
def process(tmp_path):
    """A function that starts a process for a reward; all are ended after the test."""
    (tmp_path / "own.py").write_text(OWN)
    made = []

    def start(function, **options):
        function = function.replace("own.py", str(tmp_path / "own.py"))
        made.append(RewardProcess(Reward(function=function, **options), told.append))
        return made[-1]

    told = start.told = []
    yield start
    for one in made:
        one.close()


def test_failures_are_told_with_their_row_and_the_others_are_judged(process):
    judge = process("own.py:brevity", seconds=1.0, failures="zero")
    answers = ["abcd", "raise", "ab", "hang", "a", "nan", "die", "abc"]
    assert judge([ask(answer) for answer in answers]) == [-4, 0, -2, 0, -1, 0, 0, -3]
    assert judge.failures == 4
    assert [line.split("brevity ")[1].split(", for")[0] for line in process.told] == [
        "raised ValueError: no such word",
        "did not answer within 1 s (objective.reward.seconds)",
        "returned nan",
        "ended its process",
    ]
    assert all("for prompts.jsonl, line 7" in line for line in process.told)


def test_by_default_a_failure_ends_the_run(process):
    with pytest.raises(
        UserError, match=r"raised ValueError: no such word, for prompts.jsonl, line 7.*from the last checkpoint"
    ):
        process("own.py:brevity")([ask("raise")])


def test_the_known_ones():
    from train.alignment.reward_worker import NAMED

    assert NAMED["exact"]("p", "abc", {"answer": "abc"}) == 1
    assert NAMED["exact"]("p", "it is abc", {"answer": "abc"}) == 0
    assert NAMED["lenient"]("p", "it is abc", {"answer": "abc"}) == 1
    assert NAMED["regex"]("p", "it is abc", {"answer": "a.c$"}) == 1


def test_functions_that_are_not_there_are_refused(process):
    with pytest.raises(UserError, match="there is no file nowhere.py"):
        RewardProcess(Reward(function="nowhere.py:f"))
    with pytest.raises(UserError, match="has no attribute 'unknown'"):
        process("own.py:unknown")
