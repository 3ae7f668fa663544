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
from train.data.prompts import Prompt
from train.data.tokenizers.interface import Tokenizer
from train.objectives.rollout_options import Rollouts


class Answer(NamedTuple):
    """A drawn answer: its ids, their log-probabilities in the sampler, and whether a limit ended it."""

    ids: list[int]
    logprobs: list[float]
    truncated: bool


def draw(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """The answers to requests, in their order."""
    numbers = [engine.submit(request) for request in requests]
    found = {number: Answer([], [], False) for number in numbers}
    while engine.num_unfinished:
        for update in engine.step():
            answer = found[update.request_id]
            for score in update.tokens:
                answer.ids.append(score.token)
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
        """
        self._model, self._tokenizer, self._stop_tokens, self._option = model, tokenizer, stop_tokens, option
        self._seed, self._longest, self._layout, self._alive = seed, longest, layout, alive
        self._engine: Engine | None = None

    def __call__(self, params: Any, prompts: Sequence[Prompt], rollout: int) -> list[Answer]:
        """The answers of a rollout, one for each prompt."""
        engine = self._engine_of(params)
        seed = seed_of(self._seed, rollout)
        return draw(engine, [self._request(prompt, seed, row) for row, prompt in enumerate(prompts)])

    def text(self, answer: Answer) -> str:
        """The text of an answer without the token that ends it."""
        ends = {self._tokenizer.end_of_document, *self._stop_tokens}
        return self._tokenizer.decode([token for token in answer.ids if token not in ends]).strip()

    def _engine_of(self, params: Any) -> Engine:
        if self._engine is None:
            rows = self._option.rows
            options = EngineOptions(rows=rows, tokens_per_step=4 * rows + 1, max_logprobs=1)
            self._engine = Engine(self._model, params, options, layout=self._layout)
            self._engine.compile(lambda done, count: self._alive())
        else:
            self._engine.replace_params(params)
        return self._engine

    def _request(self, prompt: Prompt, seed: int, row: int) -> Request:
        option = self._option
        return Request(
            prompt=tuple(prompt.ids),
            sampling=Sampling(
                max_tokens=min(option.max_tokens, self._longest - len(prompt.ids)),
                temperature=option.temperature,
                seed=seed,
            ),
            end=self._tokenizer.end_of_document,
            stop_tokens=self._stop_tokens,
            sample_index=row,
            num_logprobs=0,
            scaled_logprobs=True,
        )
