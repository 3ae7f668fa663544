"""Rewards of rollouts: a function of the prompt, the answer and the row's fields, run in a process of its own.

    Reward(function="exact")                        1 if the answer is the field "answer", character for character
    Reward(function="lenient")                      1 if it says so at its end (train/alignment/answers.py)
    Reward(function="regex")                        1 if the field "answer", a regular expression, is found in it
    Reward(function="my_rewards.py:brevity")        def brevity(prompt: str, answer: str, fields: dict) -> float

The process has a limit of time for each answer: a function that hangs is ended, and its row named. Nothing else guards
the machine from the function.
"""

import json
import math
import os
import pathlib
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from model.errors import UserError
from train.alignment.reward_worker import NAMED
from train.files.paths import user_path
from train.objectives.rollout_options import Reward

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_START_SECONDS = 60.0  # to start the process and import the function


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
        self._process: subprocess.Popen[bytes] | None = None
        file, _, name = reward.function.rpartition(":")
        self._function = reward.function if reward.function in NAMED else f"{user_path(file)}:{name}"
        if file and not user_path(file).is_file():
            raise UserError(f"objective.reward.function: there is no file {file}")
        self._start()

    def __call__(self, questions: Sequence[Question]) -> list[float]:
        """The rewards. Raises UserError, with the row, for one that fails, unless failures are counted."""
        return [self._judge(question) for question in questions]

    def _judge(self, question: Question) -> float:
        problem: str
        try:
            self._send({"prompt": question.prompt, "answer": question.answer, "fields": dict(question.fields)})
            answer = self._receive(self._reward.seconds)
            if "reward" in answer and math.isfinite(float(answer["reward"])):
                return float(answer["reward"])
            problem = answer.get("error", f"returned {answer.get('reward')}")
        except TimeoutError:
            problem = f"did not answer within {self._reward.seconds:g} s (objective.reward.seconds)"
            self._restart()
        except (OSError, EOFError):
            problem = "ended its process"
            self._restart()
        self.failures += 1
        told = f"the reward {self._reward.function} {problem}, for {question.where}, answer {question.answer[:80]!r}"
        if self._reward.failures == "zero":
            self._say(f"WARNING: {told}; it counts as 0")
            return 0.0
        raise UserError(
            f"{told}; mend the function, or count such answers as 0 with objective.reward.failures='zero'. The same "
            "command continues from the last checkpoint, if there is one, and draws the answers since then again"
        )

    def _start(self) -> None:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "train.alignment.reward_worker", self._function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._left = b""
        try:
            answer = self._receive(_START_SECONDS)
        except (TimeoutError, OSError, EOFError):
            answer = {"error": "its process did not start"}
        if "error" in answer:
            self.close()
            raise UserError(f"objective.reward.function: {self._reward.function}: {answer['error']}")

    def _restart(self) -> None:
        self.close()
        self._start()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> dict[str, Any]:
        """A line of the process. Raises TimeoutError, and EOFError when it has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, source = time.monotonic() + seconds, self._process.stdout.fileno()
        while b"\n" not in self._left:
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            if not (part := os.read(source, 1 << 16)):
                raise EOFError
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
