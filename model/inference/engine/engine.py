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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine import programs
from model.inference.engine.device_state import CachePlan, Rows, plan_cache
from model.inference.engine.options import Capacity, EngineOptions, EngineStatistics
from model.inference.engine.page_pool import NO_PAGE, PagePool
from model.inference.engine.programs import Choices, Scores
from model.inference.engine.scheduler import Scheduler, Span
from model.inference.engine.sequence import Sequence as Text
from model.inference.generate import PreparedParams, prepare_params
from model.inference.request import Request, TokenScore, Update
from model.inference.sampling import Sampling, rules_of_rows
from model.layout import ONE_DEVICE, Layout
from model.options.tree import check
from model.transformer import Params, abstract_params


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
        options: EngineOptions = EngineOptions(),
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
        self.options, self._vocab_size, self._context = options, config.vocab_size, config.context_length
        self._config, self._layout = programs.serving_config(config), layout
        self._plan = plan_of(config, options)
        self.capacity = capacity_of(self._plan)
        self._positions = {layer.position for layer in config.layers if layer.position.reads_lengths}
        pools = [PagePool(count) for count in self._plan.num_pages]
        shares = options.prefix_cache and bool(pools) and not self._plan.has_states and not self._positions
        self._scheduler = Scheduler(
            options.rows, options.tokens_per_step, options.page_size, pools, list(self._plan.reaches), shares=shares
        )
        self._params = prepare_params(config, params, layout).params
        self._state = jax.jit(self._plan.empty, static_argnums=0)(layout)
        self._decode_sizes = programs.decode_sizes(options.rows)
        self._read_sizes = programs.read_sizes(config, options.tokens_per_step)
        self._num_likeliest = min(options.max_logprobs, config.vocab_size)
        self._programs: dict[tuple[str, int, int], Callable[..., Any]] = {}
        self._no_bias = {size: jnp.zeros((size, config.vocab_size), jnp.float32) for size in self._decode_sizes}
        self._not_seen = {size: jnp.zeros((size, config.vocab_size), bool) for size in self._decode_sizes}
        self._seen: dict[int, np.ndarray] = {}
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
            pages_in_use=sum(sum(count > 0 for count in pool.references) for pool in scheduler.pools),
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
        self._check_tokens(request)
        for name in ("num_logprobs", "num_prompt_logprobs"):
            if (getattr(request, name) or 0) > self._num_likeliest:
                raise UserError(
                    f"request.{name}: this engine gives at most {self._num_likeliest} likeliest tokens, got "
                    f"{getattr(request, name)}; ask for fewer, or raise engine.max_logprobs"
                )
        if len(prompt) > self._context:
            raise UserError(
                f"the prompt has {len(prompt)} tokens, more than the context of {self._context}; shorten it by "
                f"{len(prompt) - self._context} tokens or take a model with a longer context"
            )
        budget = min(new, self._context - len(prompt) + 1)  # the last token needs no place in the cache
        if (needed := len(prompt) + budget - 1) > self.capacity.longest_text:
            raise UserError(
                f"the prompt of {len(prompt)} tokens with {budget} new ones needs {needed} places in the cache, and "
                f"the cache has {self.capacity.longest_text}; ask for fewer tokens, or raise engine.cache_tokens"
            )
        number, self._num_submitted = self._num_submitted, self._num_submitted + 1
        pages: list[list[int]] = [[] for _ in self._plan.reaches]
        reason = "max_tokens" if budget == new else "context"
        text = Text(number, request, budget, reason, list(prompt), pages)
        self._texts[number] = text
        self._scheduler.add(text)
        return number

    def _check_tokens(self, request: Request) -> None:
        for name, ids in {"prompt": request.prompt, "logit_bias": tuple(request.logit_bias)}.items():
            if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
                raise UserError(
                    f"request.{name}: has ids from {min(ids)} to {max(ids)}; this model knows 0 to "
                    f"{self._vocab_size - 1}"
                )

    def cancel(self, request_id: int) -> None:
        """Ends a request; its last update comes with the next step. Without effect if it is unknown or has ended."""
        if (text := self._texts.pop(request_id, None)) is not None:
            self._scheduler.remove(text)
            text.ended_by = "cancelled"
            self._cancelled.append(text)

    # --------------------------------------------------------------------------------------------------------- steps

    def compile(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compiles all programs, so that later steps compile none.

        Args:
          progress: called with the number of programs that are done, and of all.
        """
        wanted = [("decode", size, 1) for size in self._decode_sizes]
        wanted += [(name, *size) for name in ("read", "score") for size in self._read_sizes]
        for done, key in enumerate(wanted):
            self._program(*key)
            if progress is not None:
                progress(done + 1, len(wanted))

    def step(self) -> list[Update]:
        """Reads the tokens of one step. Returns the new tokens, and the requests that ended; [] if there was nothing."""
        updates = [Update(text.request_id, (), ended_by="cancelled") for text in self._cancelled]
        self._cancelled.clear()
        plan = self._scheduler.plan()
        if not plan.decoding and not plan.reading:
            assert not self._texts, "requests wait and none can run"
            return updates
        self._statistics.steps += 1
        self._read(plan.reading)
        for first in range(0, len(plan.decoding), self._decode_sizes[-1]):
            updates += self._decode(plan.decoding[first : first + self._decode_sizes[-1]])
        return updates

    def _read(self, spans: list[Span]) -> None:
        """Reads parts of prompts: those of several requests together if they are short."""
        parts: dict[str, list[Span]] = {"read": [], "score": []}
        for span in spans:
            parts["score" if span.sequence.needs_scores else "read"].append(span)
        for name, queue in parts.items():
            while queue:
                most_rows, _ = self._read_sizes[-1]
                together = queue[:most_rows]
                fits = [size for size in self._read_sizes if max(span.count for span in together) <= size[1]]
                shape = min(fits, default=self._read_sizes[0], key=lambda size: size[1])
                now = [dataclasses.replace(s, count=min(s.count, shape[1])) for s in queue[: shape[0]]]
                self._read_together(name, shape, now)
                rest = [
                    Span(old.sequence, old.first + new.count, old.count - new.count)
                    for old, new in zip(queue, now, strict=False)
                ]
                queue = [span for span in rest if span.count] + queue[len(now) :]

    def _read_together(self, name: str, shape: tuple[int, int], spans: list[Span]) -> None:
        rows = self._rows(shape, spans)
        inputs: tuple[Any, ...] = ()
        if name == "score":
            next_BT = np.zeros(shape, np.int32)
            for i, span in enumerate(spans):
                next_BT[i, : span.count] = span.sequence.tokens[span.first + 1 : span.first + 1 + span.count]
            inputs = (next_BT, np.array(any(span.sequence.request.num_prompt_logprobs for span in spans)))
        result = self._program(name, *shape)(self._params, self._state, rows, *inputs)
        self._state, scores = result if name == "score" else (result, None)
        if scores is not None:
            scores = jax.tree.map(np.asarray, scores)
        for i, span in enumerate(spans):
            text = span.sequence
            if scores is not None:
                count = text.request.num_prompt_logprobs
                text.scores += [
                    _token_score(inputs[0][i, t], scores, (i, t), count)
                    for t in range(len(text.scores) - span.first, span.count)
                ]
            self._statistics.prompt_tokens += span.count
            self._scheduler.was_read(text, span.count)

    def _decode(self, texts: list[Text]) -> list[Update]:
        """Reads the last token of every text; returns an update for each."""
        size = next(size for size in self._decode_sizes if size >= len(texts))
        rows = self._rows((size, 1), [Span(text, len(text.tokens) - 1, 1) for text in texts])
        result = self._program("decode", size, 1)(self._params, self._state, rows, self._choices(size, texts))
        self._state, token_B, scores = result
        tokens, scores = np.asarray(token_B), jax.tree.map(np.asarray, scores)
        updates = []
        for i, text in enumerate(texts):
            self._scheduler.was_read(text, 1)
            score = _token_score(tokens[i], scores, (i,), text.request.num_logprobs)
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

    # ------------------------------------------------------------------------------------------------- program inputs

    def _rows(self, shape: tuple[int, int], spans: Sequence[Span]) -> Rows:
        """Returns the tokens of some rows. A row without tokens has the position of the first, to see no more keys."""
        size, length = shape
        tokens = np.zeros(shape, np.int32)
        first, count = np.full(size, spans[0].first, np.int32), np.zeros(size, np.int32)
        text_length, state = np.ones(size, np.int32), np.full(size, self.options.rows, np.int32)
        tables = tuple(np.zeros((size, self._plan.pages_of_text), np.int32) for _ in self._plan.reaches)
        for i, span in enumerate(spans):
            text = span.sequence
            tokens[i, : span.count] = text.tokens[span.first : span.first + span.count]
            first[i], count[i], text_length[i], state[i] = span.first, span.count, len(text.tokens), text.row
            for table, pages in zip(tables, text.pages, strict=True):
                table[i, : len(pages)] = [0 if page == NO_PAGE else page for page in pages]
        return Rows(tokens, first, count, text_length, state, tables)

    def _choices(self, size: int, texts: Sequence[Text]) -> Choices:
        """Returns how the next tokens are chosen; rows without a text are greedy."""
        requests = [text.request for text in texts]
        samplings = [request.sampling for request in requests]
        samplings += [Sampling(temperature=0)] * (size - len(texts))
        numbers = np.zeros((3, size), np.uint32)
        for i, text in enumerate(texts):
            numbers[:, i] = text.request.sampling.seed, text.prompt_hash, text.request.sample_index
        bias, seen = self._no_bias[size], self._not_seen[size]
        if any(request.logit_bias for request in requests):
            bias = np.zeros((size, self._vocab_size), np.float32)
            for i, request in enumerate(requests):
                bias[i, list(request.logit_bias)] = list(request.logit_bias.values())
        if any(sampling.rules()["repetition_penalty"] is not None for sampling in samplings):
            seen = np.zeros((size, self._vocab_size), bool)
            for i, text in enumerate(texts):
                seen[i, text.tokens] = True
                seen[i, [mark for mark in (text.request.begin, text.request.end) if mark is not None]] = False
        wanted = [request.num_logprobs for request in requests]
        wants_logprob = np.array(any(each is not None for each in wanted))
        return Choices(rules_of_rows(samplings), *numbers, bias, seen, wants_logprob, np.array(any(wanted)))

    def _program(self, name: str, rows: int, tokens: int) -> Callable[..., Any]:
        """Returns a compiled program, and compiles it if that was not done ahead."""
        key = (name, rows, tokens)
        if key not in self._programs:
            text = Text(0, Request(prompt=(0, 0)), 1, "max_tokens", [0, 0], [[] for _ in self._plan.reaches], row=0)
            inputs: tuple[Any, ...] = (self._params, self._state, self._rows((rows, tokens), [Span(text, 0, 1)]))
            options: tuple[Any, ...] = (self._config, self._layout, self._plan)
            if name == "score":
                inputs += np.zeros((rows, tokens), np.int32), np.array(False)
            elif name == "decode":
                inputs += (self._choices(rows, [text]),)
            options += () if name == "read" else (self._num_likeliest,)
            self._programs[key] = getattr(programs, name).lower(*options, *inputs).compile()
        return self._programs[key]


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
