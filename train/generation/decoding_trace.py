"""The speed of a trace: requests of mixed lengths that arrive at random, served by the engine and in static batches.

Lengths of prompts and of continuations are drawn log-uniformly, so that a few are long. Arrivals are a Poisson process,
or all wait at the start. A static batch takes the next requests in order of arrival, and runs until its last text ends
(`generate`); the engine takes a request as soon as a row is free.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.generate import PreparedParams, generate
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.layout import Layout
from train.terminal.formatting import format_count

SHORTEST, LONGEST = 4, 256  # tokens


@dataclasses.dataclass(frozen=True)
class Trace:
    """Requests, and the seconds after the start at which each arrives, in order."""

    requests: tuple[Request, ...]
    arrivals: tuple[float, ...]

    @property
    def new_tokens(self) -> int:
        """The tokens of all continuations."""
        return sum(request.sampling.max_tokens for request in self.requests)


@dataclasses.dataclass(frozen=True)
class TraceSpeed:
    """The speed of a trace.

    Attributes:
      requests, prompt_tokens, new_tokens: of the trace.
      rows: the requests that decode at once, in the engine and in a static batch.
      per_second: requests that arrive each second; None if all wait at the start.
      engine_seconds, static_seconds: from the first arrival to the last token.
      first_token_seconds: from the arrival of each request to its first token, in the engine.
      token_seconds: from each token of a request to its next, in the engine; 0 for tokens that come together.
    """

    requests: int
    prompt_tokens: int
    new_tokens: int
    rows: int
    per_second: float | None
    engine_seconds: float
    static_seconds: float
    first_token_seconds: tuple[float, ...]
    token_seconds: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """The throughput of the engine over that of static batches."""
        return self.static_seconds / self.engine_seconds

    @property
    def mean_token_seconds(self) -> float:
        """The mean time between the tokens of a request, in the engine."""
        return float(np.mean(self.token_seconds)) if self.token_seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """All values but each single time, for JSON."""
        values = dataclasses.asdict(self) | {"speedup": self.speedup, "token_seconds_mean": self.mean_token_seconds}
        for name in ("first_token_seconds", "token_seconds"):
            times = values.pop(name)
            values |= {f"{name}_p{share}": _quantile(times, share) for share in (50, 99)}
        return values

    def lines(self) -> list[str]:
        """The values as lines for the terminal."""
        arrive = "all at the start" if self.per_second is None else f"{self.per_second:g} a second"
        engine, static = (
            format_count(self.new_tokens / seconds) for seconds in (self.engine_seconds, self.static_seconds)
        )
        first, between = (
            [f"{1e3 * _quantile(times, share):,.1f}" for share in (50, 99)]
            for times in (self.first_token_seconds, self.token_seconds)
        )
        return [
            f"  {self.requests:,} requests, {self.prompt_tokens:,} + {self.new_tokens:,} tokens, {arrive}, "
            f"{self.rows:,} rows",
            f"  engine {engine} tokens/s, static batches {static}: {self.speedup:.2f} times",
            f"  engine: first token {first[0]} ms in the middle, {first[1]} at p99; "
            f"between tokens {1e3 * self.mean_token_seconds:,.1f} ms in the mean, {between[1]} at p99",
        ]


def draw_trace(config: ModelConfig, count: int, per_second: float | None = None, seed: int = 0) -> Trace:
    """Draws requests. Raises UserError if the context is too short for them, and for a model that reads sources."""
    if config.encoder is not None:
        raise UserError("a trace has prompts and no sources, and this model has an encoder; take --decode without it")
    longest = min(LONGEST, config.context_length // 2)
    if longest < SHORTEST:
        raise UserError(f"a trace needs a context of {2 * SHORTEST} tokens; the model has {config.context_length}")
    draw = np.random.default_rng(seed)
    lengths = np.exp(draw.uniform(np.log(SHORTEST), np.log(longest + 1), (count, 2))).astype(int)
    gaps = np.zeros(count) if per_second is None else draw.exponential(1 / per_second, count)
    requests = tuple(
        Request(
            prompt=tuple(draw.integers(0, config.vocab_size, prompt).tolist()),
            sampling=Sampling(temperature=0, max_tokens=int(new)),
        )
        for prompt, new in lengths
    )
    return Trace(requests, tuple(np.cumsum(gaps).tolist()))


def serve(engine: Engine, trace: Trace) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Returns the seconds of the trace in a compiled engine, those to the first tokens, and those between tokens."""
    began, waiting = time.perf_counter(), 0
    arrived: dict[int, float] = {}
    last: dict[int, float] = {}
    first, between = [], []
    while waiting < len(trace.requests) or engine.num_unfinished:
        now = time.perf_counter() - began
        while waiting < len(trace.requests) and trace.arrivals[waiting] <= now:
            arrived[engine.submit(trace.requests[waiting])] = trace.arrivals[waiting]
            waiting += 1
        if not engine.num_unfinished:
            time.sleep(max(0.0, trace.arrivals[waiting] - now))
            continue
        updates, now = engine.step(), time.perf_counter() - began
        for update in updates:
            if not update.tokens:
                continue
            number = update.request_id
            if number in last:
                between.append(now - last[number])
            else:
                first.append(now - arrived[number])
            between += [0.0] * (len(update.tokens) - 1)  # tokens of one call come together
            last[number] = now
    return time.perf_counter() - began, tuple(first), tuple(between)


def serve_in_batches(
    config: ModelConfig, params: PreparedParams, layout: Layout, trace: Trace, rows: int, *, waits: bool = True
) -> float:
    """Returns the seconds of the trace in static batches of up to `rows` requests that have arrived.

    With `waits=False` it reads one token of every batch, to compile the programs.
    """
    began, next_request = time.perf_counter(), 0
    while next_request < len(trace.requests):
        if waits:
            time.sleep(max(0.0, trace.arrivals[next_request] - (time.perf_counter() - began)))
        now = time.perf_counter() - began if waits else float("inf")
        batch = [
            request
            for request, arrival in zip(trace.requests[next_request:], trace.arrivals[next_request:], strict=True)
            if arrival <= now
        ][:rows]
        next_request += len(batch)
        _generate(config, params, layout, batch, rows, tokens=None if waits else 1)
    return time.perf_counter() - began


def _generate(
    config: ModelConfig,
    params: PreparedParams,
    layout: Layout,
    batch: Sequence[Request],
    rows: int,
    tokens: int | None,
) -> None:
    """Continues the texts of a batch, each by its own number of tokens, or by `tokens`."""
    budgets = [request.sampling.max_tokens for request in batch]
    prompts = [list(request.prompt) for request in batch]
    written = [0] * len(batch)

    def ends(row: int, token: int) -> bool:
        written[row] += 1
        return written[row] >= (budgets[row] if tokens is None else tokens)

    generate(
        config,
        params,
        prompts,
        Sampling(temperature=0, max_tokens=max(budgets)),
        on_token=ends,
        layout=layout,
        row_multiple=rows,
    )


def measure_trace(
    config: ModelConfig,
    params: PreparedParams,
    layout: Layout,
    rows: int,
    count: int = 200,
    per_second: float | None = None,
) -> TraceSpeed:
    """Serves a trace by the engine and in static batches, both compiled before.

    Raises UserError if the context is too short.
    """
    trace = draw_trace(config, count, per_second)
    longest = max(len(request.prompt) + request.sampling.max_tokens for request in trace.requests)
    options = EngineOptions(
        rows=rows,
        tokens_per_step=max(2 * rows, min(128, rows * longest)),
        cache_tokens=rows * -(-longest // EngineOptions.page_size) * EngineOptions.page_size,
        prefix_cache=False,
    )
    engine = Engine(config, params, options, layout=layout)
    engine.compile()
    seconds, first, between = serve(engine, trace)
    serve_in_batches(config, params, layout, trace, rows, waits=False)
    return TraceSpeed(
        requests=count,
        prompt_tokens=sum(len(request.prompt) for request in trace.requests),
        new_tokens=trace.new_tokens,
        rows=rows,
        per_second=per_second,
        engine_seconds=seconds,
        static_seconds=serve_in_batches(config, params, layout, trace, rows),
        first_token_seconds=first,
        token_seconds=between,
    )


def _quantile(times: Sequence[float], percent: int) -> float:
    return float(np.percentile(times, percent)) if times else 0.0
