"""Options of rollouts: how answers are drawn, the reward of an answer, the baseline of its advantage."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from train.files.paths import IS_PATH

Baseline = Literal["group", "mean", "leave_one_out"]  # see train/alignment/advantages.py
# See train/alignment/reward_worker.py.
KNOWN_REWARDS = ("exact", "lenient", "math", "reasoning_gym", "regex", "similarity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward:
    """A reward.

    Attributes:
      function: the name of a known one, or FILE.py:FUNCTION.
      seconds: the time that it has for an answer.
      failures: a function that raises, hangs or returns no finite number ends the run ("stop"), which continues from
        its last checkpoint and draws the same answers again, or gives 0 and is counted as `reward_failures` ("zero").
    """

    function: str = "exact"
    seconds: float = 10.0
    failures: Literal["stop", "zero"] = "stop"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.function not in KNOWN_REWARDS and not is_function_of_file(self.function):
            yield (
                "function",
                f"expected FILE.py:FUNCTION or one of {', '.join(sorted(KNOWN_REWARDS))}, got {self.function!r}",
            )
        if not 0 < self.seconds < math.inf:
            yield "seconds", f"must be above 0, got {self.seconds}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardOf:
    """The score that a reward model gives to an answer (train/alignment/reward_run.py).

    Attributes:
      run: the folder of a run of `RewardModel`, with the tokenizer and the chat template of the prompts.
    """

    run: str = dataclasses.field(metadata=IS_PATH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that answers the model's answers, so that a rollout has several turns (train/alignment/tool.py).

    Attributes:
      function: FILE.py:FUNCTION, `def tool(prompt: str, answer: str, fields: dict) -> str | None`: a text, after which
        the model answers again, or None where the answer is the last one.
      turns: the most answers of the model, at least 2.
      seconds: the time that the function has for an answer.
    """

    function: str
    turns: int = 2
    seconds: float = 10.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not is_function_of_file(self.function):
            yield "function", f"expected FILE.py:FUNCTION, got {self.function!r}"
        if self.turns < 2:
            yield "turns", f"must be at least 2, or tool=None for one answer; got {self.turns}"
        if not 0 < self.seconds < math.inf:
            yield "seconds", f"must be above 0, got {self.seconds}"


def is_function_of_file(function: str) -> bool:
    """Whether a text reads FILE.py:FUNCTION."""
    file, _, name = function.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How answers are drawn.

    Draws are from the whole policy at a temperature: with a filter of tokens (top-k, top-p, min-p) they would be of
    another policy than the one whose ratio and gradient the losses have.

    Attributes:
      max_tokens: the most tokens of an answer.
      tool: a function that answers the model's answers; None for rollouts of one answer.
      temperature: the temperature of the policy.
      rows: the answers that are drawn at once.
      truncated: an answer that reaches a limit counts as any other ("count"), or not at all ("mask").
      minibatches: the updates into which the rollouts of so many batches are split, so that a later one is off-policy.
      epochs: how often the rollouts are used.
      behind: 1 draws the answers of a rollout with the parameters before the last rollout's updates, as a sampler does
        that works while the trainer trains; `importance_cap` then makes up for it. 0 draws them with the latest.
      importance_cap: the largest importance weight of a token, p_old / p_sampler, with which its policy loss is
        multiplied; None for no weights.
    """

    max_tokens: int = 64
    tool: Tool | None = None
    temperature: float = 1.0
    rows: int = 16
    truncated: Literal["count", "mask"] = "count"
    minibatches: int = 1
    epochs: int = 1
    behind: Literal[0, 1] = 0
    importance_cap: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("max_tokens", "rows", "minibatches", "epochs"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if self.temperature <= 0:
            yield "temperature", f"must be above 0: a greedy policy draws nothing; got {self.temperature}"
        if self.importance_cap is not None and self.importance_cap <= 0:
            yield "importance_cap", f"must be above 0, or None for no weights, got {self.importance_cap}"
        if self.behind and self.importance_cap is None:
            yield "importance_cap", "answers of earlier parameters need weights; set it, such as 2.0, or behind to 0"
