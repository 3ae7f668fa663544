"""Answers drawn by the engine with the trainer's own parameters.

The draws of a rollout are a function of (training.seed, the number of the rollout, its row), so they are the same in a
run that resumes. Samples of one prompt share its pages in the engine's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from model.config import ModelConfig
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.layout import Layout
from train.alignment.tool import ToolTurns
from train.data.conversations.template import ChatTemplate
from train.data.prompts import Prompt
from train.data.tokenizers.interface import Tokenizer
from train.objectives.rollout_options import Rollouts


class Answer(NamedTuple):
    """The drawn answer to a prompt, or several with the texts of a tool between them.

    Attributes:
      ids: the ids after the prompt.
      drawn: whether each was drawn by the policy.
      logprobs: the log-probability of each in the sampler; 0 for those of a tool.
      begin: the place of the last answer in ids.
      truncated: whether a limit ended it.
    """

    ids: list[int]
    drawn: list[bool]
    logprobs: list[float]
    begin: int
    truncated: bool

    def joined(self, ids: Sequence[int], other: Answer) -> Answer:
        """Returns the answer with the ids of a tool and the next answer after it."""
        return Answer(
            [*self.ids, *ids, *other.ids],
            [*self.drawn, *[False] * len(ids), *other.drawn],
            [*self.logprobs, *[0.0] * len(ids), *other.logprobs],
            len(self.ids) + len(ids),
            other.truncated,
        )


def draw(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """The answers to requests, in their order."""
    numbers = [engine.submit(request) for request in requests]
    found = {number: Answer([], [], [], 0, False) for number in numbers}
    while engine.num_unfinished:
        for update in engine.step():
            answer = found[update.request_id]
            for score in update.tokens:
                answer.ids.append(score.token)
                answer.drawn.append(True)
                answer.logprobs.append(float(score.logprob or 0.0))
            if update.ended_by in ("max_tokens", "context"):
                found[update.request_id] = answer._replace(truncated=True)
    return [found[number] for number in numbers]


def seed_of(seed: int, rollout: int) -> int:
    """The seed of the draws of a rollout, below 2^32."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{rollout}".encode(), digest_size=4).digest(), "big")


class Sampler:
    """Draws answers to prompts under any parameters of one model; its programs are compiled once."""

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: Tokenizer,
        stop_tokens: tuple[int, ...],
        option: Rollouts,
        seed: int,
        longest: int,
        layout: Layout,
        alive: Callable[[], None],
        template: ChatTemplate | None = None,
    ) -> None:
        """Prepares; nothing is compiled before the first draw.

        Args:
          model, tokenizer: those of the policy.
          stop_tokens: the tokens that end an answer, beside the end of a document.
          option: how answers are drawn.
          seed: the seed of all rollouts.
          longest: the most tokens of a prompt and its answer.
          layout: the sharding of activations.
          alive: called while programs are compiled.
          template: the chat template of prompts that are messages, which the option's tool needs.
        """
        self._model, self._tokenizer, self._stop_tokens, self._option = model, tokenizer, stop_tokens, option
        self._seed, self._longest, self._layout, self._alive = seed, longest, layout, alive
        self._engine: Engine | None = None
        self._tool = None if option.tool is None else ToolTurns(option.tool, tokenizer, template)
        self._tool_turns = 0 if option.tool is None else option.tool.turns - 1

    def __call__(self, params: Any, prompts: Sequence[Prompt], rollout: int) -> list[Answer]:
        """The answers of a rollout, one for each prompt."""
        engine, seed = self._engine_of(params), seed_of(self._seed, rollout)
        answers = draw(engine, [self._request(prompt.ids, seed, row) for row, prompt in enumerate(prompts)])
        for _ in range(self._tool_turns):
            following = {}
            for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
                if (ids := self._after(prompt, answer)) is not None:
                    following[row] = ids
            texts = {row: [*prompts[row].ids, *answers[row].ids, *ids] for row, ids in following.items()}
            new = draw(engine, [self._request(text, seed, row) for row, text in texts.items()])
            for (row, ids), answer in zip(following.items(), new, strict=True):
                answers[row] = answers[row].joined(ids, answer)
        return answers

    def _after(self, prompt: Prompt, answer: Answer) -> list[int] | None:
        """The ids of the tool after an answer; None where there are none, or no room for another answer."""
        if self._tool is None or answer.truncated:
            return None
        ids = self._tool(prompt, self.text(answer), answer.ids[-1])
        room = self._longest - len(prompt.ids) - len(answer.ids)
        return None if ids is None or len(ids) >= room else ids

    def text(self, answer: Answer) -> str:
        """The text of an answer, the last of several, without the token that ends it."""
        ends = {self._tokenizer.end_of_document, *self._stop_tokens}
        return self._tokenizer.decode([token for token in answer.ids[answer.begin :] if token not in ends]).strip()

    def close(self) -> None:
        """Ends the process of the tool."""
        if self._tool is not None:
            self._tool.close()

    def _engine_of(self, params: Any) -> Engine:
        if self._engine is None:
            rows = self._option.rows
            options = EngineOptions(rows=rows, tokens_per_step=4 * rows + 1, max_logprobs=1)
            self._engine = Engine(self._model, params, options, layout=self._layout)
            self._engine.compile(lambda done, count: self._alive())
        else:
            self._engine.replace_params(params)
        return self._engine

    def _request(self, prompt: Sequence[int], seed: int, row: int) -> Request:
        option = self._option
        return Request(
            prompt=tuple(prompt),
            sampling=Sampling(
                max_tokens=min(option.max_tokens, self._longest - len(prompt)),
                temperature=option.temperature,
                seed=seed,
            ),
            end=self._tokenizer.end_of_document,
            stop_tokens=self._stop_tokens,
            sample_index=row,
            num_logprobs=0,
            scaled_logprobs=True,
        )
