"""Rewards of rollouts: a function of the prompt, the answer and the row's fields, run in a process of its own.

    Reward(function="exact")                        1 if the answer is the field "answer", character for character
    Reward(function="lenient")                      1 if it says so at its end (train/alignment/answers.py)
    Reward(function="regex")                        1 if the field "answer", a regular expression, is found in it
    Reward(function="similarity")                   twice the characters in common over those of both texts (difflib)
    Reward(function="math")                         1 if its last formula or number equals the field "answer", in LaTeX
                                                    or plain (math-verify; pip install -e '.[math]')
    Reward(function="reasoning_gym")                the task's own score of a row that is an entry of reasoning-gym with
                                                    its question as "prompt" (pip install -e '.[reasoning]')
    Reward(function="my_rewards.py:brevity")        def brevity(prompt: str, answer: str, fields: dict) -> float

The process has a limit of time for each answer: a function that hangs is ended, and its row named. Nothing else guards
the machine from the function.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from model.errors import UserError
from train.alignment.function_process import CallError, FunctionProcess
from train.objectives.rollout_options import Reward


class Question(NamedTuple):
    """An answer to judge.

    Attributes:
      prompt, answer: the texts.
      fields: the fields of the prompt's row.
      where: the place of that row.
      ids: the ids of prompt and answer.
      prompt_tokens: how many of them are the prompt's.
    """

    prompt: str
    answer: str
    fields: Mapping[str, Any]
    where: str
    ids: Sequence[int] = ()
    prompt_tokens: int = 0


class RewardProcess:
    """Judges answers, one after the other.

    Attributes:
      failures: the number of answers so far whose reward failed.
    """

    def __init__(self, reward: Reward, say: Callable[[str], None] = lambda line: None) -> None:
        """Args: the option; prints a line for each counted failure. Raises UserError without such a function."""
        self._reward, self._say, self.failures = reward, say, 0
        self._process = FunctionProcess(reward.function, "reward", "objective.reward", reward.seconds)

    def __call__(self, questions: Sequence[Question]) -> list[float]:
        """The rewards. Raises UserError, with the row, for one that fails, unless failures are counted."""
        return [self._judge(question) for question in questions]

    def _judge(self, question: Question) -> float:
        try:
            found = float(self._process(question.prompt, question.answer, dict(question.fields)))
            if math.isfinite(found):
                return found
            problem = f"returned {found}"
        except CallError as error:
            problem = str(error)
        self.failures += 1
        told = f"the reward {self._reward.function} {problem}, for {question.where}, answer {question.answer[:80]!r}"
        if self._reward.failures == "zero":
            self._say(f"WARNING: {told}; it counts as 0")
            return 0.0
        raise UserError(
            f"{told}; mend the function, or count such answers as 0 with objective.reward.failures='zero'. The same "
            "command continues from the last checkpoint, if there is one, and draws the answers since then again"
        )

    def close(self) -> None:
        """Ends the process."""
        self._process.close()
