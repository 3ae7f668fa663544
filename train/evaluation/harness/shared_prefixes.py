"""Scores of continuations whose contexts begin alike, by the inference engine: each context is read once.

The answers to a question share the question, and the questions of a task often share their examples. The engine finds
the pages of a context in its cache, and computes logits of the continuation alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from model.config import ModelConfig
from model.inference.engine.capacity import shares_pages
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.request import Request
from model.layout import Layout

PAGE = 8  # tokens: what texts share is found in whole pages
ROWS, AHEAD = 32, 64  # texts that are read together, and that are with the engine at any time


class PrefixScorer:
    """Scores continuations by an engine, which is made for the first of them."""

    def __init__(self, model: ModelConfig, params: Any, layout: Layout) -> None:
        """Args: the model's options, its parameters, and their layout."""
        self._model, self._params, self._layout = model, params, layout
        self._engine: Engine | None = None

    def pays(self, texts: Sequence[Sequence[int]], padded: int) -> bool:
        """Whether the engine reads these texts in less time than batches of `padded` tokens take.

        On a CPU it takes at most twice the time of a batch for a token (tests/benchmarks/README.md). Its programs are
        too small for other devices, and all devices compute all of its rows.
        """
        suits = self._layout.platform == "cpu" and self._layout.ways("batch") == 1 and shares_pages(self._model)
        suits = suits and self._model.encoder is None  # texts of tasks have no source
        return suits and 2 * tokens_to_read(texts, PAGE) <= padded

    def score(
        self, texts: Sequence[Sequence[int]], counts: Sequence[int], advance: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        """Returns the log-likelihood in nats of the last tokens of texts, and whether each is the likeliest.

        Args:
          texts: ids, at most one more than the context.
          counts: how many of the last tokens of each text to score.
          advance: is told of every scored text.
        """
        engine, found = self._made(), [(0.0, True)] * len(texts)
        # Those that begin alike follow each other. A continuation without tokens has nothing to score.
        order = sorted((i for i, count in enumerate(counts) if count), key=lambda i: list(texts[i]))
        advance(len(texts) - len(order))
        running: dict[int, int] = {}
        submitted = 0
        while submitted < len(order) or engine.num_unfinished:
            while submitted < len(order) and engine.num_unfinished < AHEAD:
                i = order[submitted]
                running[engine.submit(_request(texts[i], counts[i]))] = i
                submitted += 1
            for update in engine.step():
                assert update.prompt is not None, "an update has all scores"
                total = sum(score.logprob or 0.0 for score in update.prompt)
                greedy = all(score.token == score.likeliest[0][0] for score in update.prompt)
                found[running.pop(update.request_id)] = total, greedy
                advance(1)
        return found

    def _made(self) -> Engine:
        if self._engine is None:
            options = EngineOptions(
                rows=ROWS, tokens_per_step=16 * ROWS, page_size=PAGE, max_logprobs=1, only_scores=True
            )
            self._engine = Engine(self._model, self._params, options, layout=self._layout)
        return self._engine


def _request(text: Sequence[int], count: int) -> Request:
    return Request(prompt=tuple(text), num_prompt_logprobs=1, first_prompt_logprob=len(text) - count, only_scores=True)


def tokens_to_read(texts: Sequence[Sequence[int]], page_size: int) -> int:
    """Returns the tokens to read of all texts, if each finds the whole pages that it shares with another."""
    total, before = 0, list[int]()
    for text in sorted(map(list, texts)):
        shared = 0
        most = min(len(text), len(before))
        while shared < most and text[shared] == before[shared]:
            shared += 1
        total += len(text) - shared // page_size * page_size
        before = text
    return total
