"""The inference engine: many requests at once, each answered as if it were alone.

    engine = Engine(config, params, EngineOptions(rows=16))
    engine.compile()
    number = engine.submit(Request(prompt=(1, 2, 3), sampling=Sampling(max_tokens=20)))
    while engine.num_unfinished:
        for update in engine.step(): ...

Exactness. On a CPU the tokens and log-probabilities of a request are the same bits whatever other requests run beside
it, however its prompt is cut into parts, whichever of its pages were found in the cache, and however often it gave way
and was read again (programs.py and model/kernels/xla/pages.py say how; tests/model/inference/engine/test_exactness.py
tries random schedules). They are the tokens of `generate`, up to rounding. On accelerators sums may depend on the
number of rows of a program.

One thread calls an engine; it has no threads, reads no clock and writes no text.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine import programs
from model.inference.engine.device import Device
from model.inference.engine.device_state import CachePlan, plan_cache
from model.inference.engine.options import Capacity, EngineOptions, EngineStatistics
from model.inference.engine.page_pool import PagePool
from model.inference.engine.programs import Scores
from model.inference.engine.scheduler import Scheduler, Span
from model.inference.engine.sequence import Sequence as Text
from model.inference.generate import PreparedParams, prepare_params
from model.inference.prompts import check_ids, check_length
from model.inference.request import EndedBy, Request, TokenScore, Update
from model.layout import ONE_DEVICE, Layout
from model.options.tree import check
from model.transformer import Params, abstract_params

DEFAULT_OPTIONS = EngineOptions()


class Engine:
    """See the module docstring.

    Attributes:
      options: the sizes.
      capacity: how much fits into the cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params | PreparedParams,
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        layout: Layout = ONE_DEVICE,
    ) -> None:
        """Prepares the parameters and makes the cache.

        Args:
          config: the model's options.
          params: its parameters, or the result of `prepare_params`.
          options: the sizes of the engine.
          layout: the layout of activations over devices.

        Raises:
          UserError: for invalid options.
        """
        check(options, "engine")
        self.options, self._config, self._layout = options, config, layout
        self._vocab_size, self._context = config.vocab_size, config.context_length
        self._plan = plan_of(config, options)
        self.capacity = capacity_of(self._plan)
        self._positions = {layer.position for layer in config.layers if layer.position.reads_lengths}
        pools = [PagePool(count) for count in self._plan.num_pages]
        shares = options.prefix_cache and bool(pools) and not self._plan.has_states and not self._positions
        self._scheduler = Scheduler(
            options.rows, options.tokens_per_step, options.page_size, pools, list(self._plan.reaches), shares=shares
        )
        self._num_likeliest = max(1, min(options.max_logprobs, config.vocab_size))
        self._device = Device(
            programs.serving_config(config),
            layout,
            self._plan,
            prepare_params(config, params, layout).params,
            rows=options.rows,
            tokens_per_step=options.tokens_per_step,
            num_likeliest=self._num_likeliest,
        )
        self._texts: dict[int, Text] = {}
        self._cancelled: list[Text] = []
        self._num_submitted = 0
        self._statistics = EngineStatistics(pages=sum(pool.num_pages for pool in pools))

    # ------------------------------------------------------------------------------------------------------ requests

    @property
    def num_unfinished(self) -> int:
        """The number of requests whose last update is still to come."""
        return len(self._texts) + len(self._cancelled)

    @property
    def statistics(self) -> EngineStatistics:
        """The counts until now."""
        scheduler = self._scheduler
        return dataclasses.replace(
            self._statistics,
            prefix_tokens=scheduler.prefix_tokens,
            preemptions=scheduler.preemptions,
            evictions=sum(pool.evictions for pool in scheduler.pools),
            pages_in_use=sum(pool.num_pages - pool.available for pool in scheduler.pools),
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
        )

    def submit(self, request: Request) -> int:
        """Adds a request. Returns its number, for updates.

        Raises:
          UserError: for invalid options, and for a request that this engine can never serve.
        """
        check(request.sampling, "sampling")
        for name, problem in request.problems():
            raise UserError(f"request.{name}: {problem}")
        prompt, new = request.prompt, request.sampling.max_tokens
        check_ids("request.prompt:", prompt, self._vocab_size)
        check_ids("request.logit_bias:", tuple(request.logit_bias), self._vocab_size)
        for name in ("num_logprobs", "num_prompt_logprobs"):
            if (getattr(request, name) or 0) > self._num_likeliest:
                raise UserError(
                    f"request.{name}: this engine gives at most {self._num_likeliest} likeliest tokens, got "
                    f"{getattr(request, name)}; ask for fewer, or raise engine.max_logprobs"
                )
        check_length("the prompt", prompt, self._context)
        budget = min(new, self._context - len(prompt) + 1)  # the last token needs no place in the cache
        if (needed := len(prompt) + budget - 1) > self.capacity.longest_text:
            raise UserError(
                f"the prompt of {len(prompt)} tokens with {budget} new ones needs {needed} places in the cache, and "
                f"the cache has {self.capacity.longest_text}; ask for fewer tokens, or raise engine.cache_tokens"
            )
        number, self._num_submitted = self._num_submitted, self._num_submitted + 1
        pages: list[list[int]] = [[] for _ in self._plan.reaches]
        reason: EndedBy = "max_tokens" if budget == new else "context"
        text = Text(number, request, budget, reason, list(prompt), pages)
        self._texts[number] = text
        self._scheduler.add(text)
        return number

    def cancel(self, request_id: int) -> None:
        """Ends a request; its last update comes with the next step. Without effect if it is unknown or has ended."""
        if (text := self._texts.pop(request_id, None)) is not None:
            self._scheduler.remove(text)
            text.ended_by = "cancelled"
            self._cancelled.append(text)

    def replace_params(self, params: Params | PreparedParams) -> None:
        """Takes other parameters of the same model, as after a step of training, and forgets the pages of ended texts.

        Raises:
          UserError: while requests are unfinished, which would mix two models.
        """
        if self.num_unfinished:
            raise UserError(
                f"{self.num_unfinished} requests are unfinished; finish or cancel them before new parameters"
            )
        self._device.params = prepare_params(self._config, params, self._layout).params
        for pool in self._scheduler.pools:
            pool.forget()

    # --------------------------------------------------------------------------------------------------------- steps

    def compile(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compiles all programs, so that later steps compile none; without this call the first step does it.

        It also tries them on a few tokens (`is_exact`). `progress` is called with the programs done, and of all.
        """
        if self._device.is_exact is None:
            self._device.compile(progress or (lambda done, count: None))

    @property
    def is_exact(self) -> bool | None:
        """Whether all programs gave the same results for the same tokens, to the bit; None before they are compiled."""
        return self._device.is_exact

    def step(self) -> list[Update]:
        """Reads the tokens of one step. Returns the new tokens, and the requests that ended; [] if there are none."""
        self.compile()
        updates = [Update(text.request_id, (), ended_by="cancelled") for text in self._cancelled]
        self._cancelled.clear()
        plan = self._scheduler.plan()
        if not plan.decoding and not plan.reading:
            assert not self._texts, "requests wait and none can run"
            return updates
        self._statistics.steps += 1
        self._read(plan.reading)
        return updates + self._decode(plan.decoding)

    def _read(self, spans: list[Span]) -> None:
        """Reads parts of prompts, and keeps the scores that are asked for."""
        scored = [span for span in spans if span.sequence.needs_scores]
        self._device.read([span for span in spans if not span.sequence.needs_scores])
        for part in self._device.score(scored):
            text, first = part.span.sequence, part.span.first
            for place in range(len(text.scores) - first, part.span.count):  # those before were known already
                token = text.tokens[first + place + 1]
                text.scores.append(
                    _token_score(token, part.scores, (part.row, place), text.request.num_prompt_logprobs)
                )
        for span in spans:
            self._statistics.prompt_tokens += span.count
            self._scheduler.was_read(span.sequence, span.count)

    def _decode(self, texts: list[Text]) -> list[Update]:
        """Reads the last token of every text; returns an update for each."""
        updates = []
        for text, (token, scores) in zip(texts, self._device.decode(texts), strict=True):
            self._scheduler.was_read(text, 1)
            score = _token_score(token, scores, (), text.request.num_logprobs)
            text.add(score)
            prompt = None
            if text.request.num_prompt_logprobs is not None and not text.scores_sent:
                prompt, text.scores_sent = tuple(text.scores), True
            updates.append(Update(text.request_id, (score,), prompt, text.ended_by))
            if text.ended_by is not None:
                self._scheduler.remove(text)
                del self._texts[text.request_id]
            elif any(position.changes_at(len(text.tokens)) for position in self._positions):
                self._scheduler.give_way(text)  # its keys are those of a shorter text
        self._statistics.new_tokens += len(texts)
        return updates


def _token_score(token: Any, scores: Scores, at: tuple[int, ...], count: int | None) -> TokenScore:
    """Returns a token with its log-probability and those of the `count` likeliest; without any for None."""
    if count is None:
        return TokenScore(int(token))
    ids, values = scores.likeliest[at][:count], scores.likeliest_logprob[at][:count]
    likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenScore(int(token), float(scores.logprob[at]), likeliest)


def plan_of(config: ModelConfig, options: EngineOptions) -> CachePlan:
    """Returns the arrays of an engine; makes none."""
    if options.cache_tokens is not None:
        return plan_cache(config, options, options.cache_tokens)
    wanted = options.rows * config.context_length
    plan = plan_cache(config, options, wanted)
    room = _device_memory() // 2 - sum(
        math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(abstract_params(config))
    )
    capacity = capacity_of(plan)
    if capacity.cache_bytes <= room or not capacity.bytes_per_token:
        return plan
    fewer = (room - options.rows * capacity.bytes_per_row) // capacity.bytes_per_token
    return plan_cache(config, options, max(options.page_size, min(wanted, fewer)))


def capacity_of(plan: CachePlan) -> Capacity:
    """Returns the size of the arrays of a plan."""
    groups = list(enumerate(zip(plan.reaches, plan.num_pages, strict=True)))
    whole = [group for group, (reach, _) in groups if reach is None]
    row_bytes = plan.bytes_of(None)
    window_bytes = sum(plan.bytes_of(group) * pages for group, (reach, pages) in groups if reach is not None)
    page_bytes = sum(plan.bytes_of(group) for group in whole)
    tokens = plan.num_pages[whole[0]] * plan.page_size if whole else plan.rows * plan.longest_text
    return Capacity(
        tokens=tokens,
        longest_text=plan.longest_text,
        cache_bytes=sum(plan.bytes_of(group) * pages for group, (_, pages) in groups) + plan.rows * row_bytes,
        bytes_per_token=page_bytes // plan.page_size,
        bytes_per_row=row_bytes + window_bytes // plan.rows,
    )


@functools.cache
def _device_memory() -> int:
    """Returns the bytes of a device's memory, or of this machine's where devices do not say."""
    stats: Mapping[str, int] = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
