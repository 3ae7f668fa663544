"""The speed of inference with random weights and random prompts: prefill, decoding, waiting times, memory traffic.

The programs are those of model/inference/generate.py, and decoding is driven as `generate` drives it: step n + 1 is
handed to the devices before the tokens of step n are read.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.inference.generate import (
    PreparedParams,
    cache_slots,
    decode,
    init_decode_state,
    initial_inputs,
    prefill,
    prefill_chunks,
    prepare_params,
)
from model.inference.sampling import Sampling
from model.transformer import init
from train.parallel.mesh_choice import MeshChoice, model_shardings
from train.parallel.planner.serving import row_bytes, weights_of
from train.run.utilization import memory_rate
from train.terminal.formatting import format_bytes, format_count, format_percent

CHUNK = 128  # tokens of a row that one prefill step takes, as in `generate`


@dataclasses.dataclass(frozen=True)
class Cell:
    """The speed at one number of rows and one context.

    Attributes:
      rows, context: rows that decode together, tokens of each prompt.
      compile_seconds: both programs, or the time to read them from a cache of compiled programs.
      first_token_seconds: from the prompts to the first token of all rows on the host.
      token_seconds: from one token of all rows to the next, for each measured step.
      bytes_read: the weights that some row needs and the caches of all rows that a step reads once at least.
      memory_rate: bytes a second of the memories of all devices: published, or of a copy on a CPU.
    """

    rows: int
    context: int
    compile_seconds: float
    first_token_seconds: float
    token_seconds: tuple[float, ...]
    bytes_read: float
    memory_rate: float | None

    @property
    def prefill_rate(self) -> float:
        """Tokens of prompts a second; the time includes one step of decoding."""
        return self.rows * self.context / self.first_token_seconds

    @property
    def seconds(self) -> float:
        """The median time between tokens."""
        return statistics.median(self.token_seconds)

    @property
    def decode_rate(self) -> float:
        """Tokens a second of all rows."""
        return self.rows / self.seconds

    @property
    def bandwidth_share(self) -> float | None:
        """The share of the memories' rate that `bytes_read` takes; None where no rate is known."""
        return None if self.memory_rate is None else self.bytes_read / self.seconds / self.memory_rate

    def quantile(self, share: float) -> float:
        """The time between tokens that a share of the steps does not exceed."""
        return float(np.quantile(self.token_seconds, share))

    def as_json(self) -> dict[str, Any]:
        """All values, for JSON."""
        names = ("prefill_rate", "decode_rate", "bandwidth_share")
        quantiles = {"token_seconds_p50": self.quantile(0.5), "token_seconds_p99": self.quantile(0.99)}
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names} | quantiles


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """The speed over a grid of rows and contexts.

    Attributes:
      device, devices: their kind and their number.
      weights: bytes of the weights, as they are read.
      cells: the grid, without cells whose weights and caches do not fit.
      too_large: the rows and the contexts of these.
    """

    device: str
    devices: int
    weights: float
    cells: tuple[Cell, ...]
    too_large: tuple[tuple[int, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All values, for JSON."""
        return dataclasses.asdict(self) | {"cells": [cell.as_json() for cell in self.cells]}

    def lines(self) -> list[str]:
        """The values as lines for the terminal."""
        known = next((cell.memory_rate for cell in self.cells if cell.memory_rate is not None), None)
        kind = "of a copy" if self.device.lower() == "cpu" else "published"
        rate = "no memory rate is known of this device" if known is None else f"{known / 1e9:,.0f} GB/s {kind}"
        lines = [
            f"  {self.devices:,} x {self.device}, {format_bytes(self.weights)} of weights, memory {rate}",
            "  rows context  prefill, tok/s  first token, ms  decode, tok/s  between tokens, p50 and p99 ms  bandwidth",
        ]
        for cell in self.cells:
            share = "-" if cell.bandwidth_share is None else format_percent(cell.bandwidth_share)
            between = f"{1e3 * cell.quantile(0.5):,.2f} {1e3 * cell.quantile(0.99):,.2f}"
            prefill, first, decoding = cell.prefill_rate, 1e3 * cell.first_token_seconds, cell.decode_rate
            lines.append(
                f"{cell.rows:6,} {cell.context:7,} {format_count(prefill):>15} {first:16,.1f} "
                f"{format_count(decoding):>14} {between:>31} {share:>10}"
            )
        if any((cell.bandwidth_share or 0) > 1 for cell in self.cells):
            lines.append("  above 100%: caches hold a part of what a step reads, or the copy was slowed by other work")
        return lines + [f"{rows:6,} {context:7,} does not fit" for rows, context in self.too_large]


def measure(
    config: ModelConfig,
    choice: MeshChoice,
    rows: Sequence[int],
    contexts: Sequence[int],
    steps: int = 32,
    warmup: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> DecodingSpeed:
    """Draws weights, and generates greedily from random prompts at every pair of rows and context.

    Args:
      config: the model.
      choice: the devices, and how the model lies on them.
      rows, contexts: the numbers of rows, and of tokens in a prompt.
      steps: how many steps of decoding to measure.
      warmup: how many steps to run before them; the first gives the first token.
      on_progress: called with the number of cells that are done, first with 0.

    Raises:
      UserError: a context that leaves no room for the steps.
    """
    for context in contexts:
        if context + steps + warmup > config.context_length:
            raise UserError(
                f"a prompt of {context:,} tokens and {steps + warmup} steps exceed the context of "
                f"{config.context_length:,}; give shorter contexts, or fewer steps"
            )
    params, layout = random_params(config, choice), choice.layout
    device, count = choice.mesh.devices.flat[0], choice.mesh.size
    rate, copied = memory_rate(device.device_kind), 0.0
    cells, too_large, done = [], [], 0
    for each_rows in rows:
        for context in contexts:
            if on_progress is not None:
                on_progress(done)
            done += 1
            if _exceeds(device, config, params, each_rows, context + steps + warmup, count):
                too_large.append((each_rows, context))
                continue
            began, end = context + warmup, context + warmup + steps
            read = weights_of(config, config.precision.compute, each_rows).read
            caches = each_rows * (row_bytes(config, began) + row_bytes(config, end)) / 2
            timed = _measure_cell(config, layout, params, each_rows, context, steps, warmup)
            cells.append(Cell(each_rows, context, *timed, read + caches, None if rate is None else rate * count))
            if device.platform == "cpu":  # more than once: other work takes a part of it
                copied = max(copied, copy_rate())
    if copied:
        cells = [dataclasses.replace(cell, memory_rate=copied) for cell in cells]
    weights = sum(x.nbytes for x in jax.tree.leaves(params.params))
    return DecodingSpeed(device.device_kind, count, weights, tuple(cells), tuple(too_large))


def random_params(config: ModelConfig, choice: MeshChoice) -> PreparedParams:
    """Draws weights on the devices, as decoding reads them."""
    draw = jax.jit(functools.partial(init, config), out_shardings=model_shardings(config, choice.mesh, choice.table))
    return prepare_params(config, draw(jax.random.key(0)), choice.layout)


def _measure_cell(
    config: ModelConfig, layout: Any, params: PreparedParams, rows: int, context: int, steps: int, warmup: int
) -> tuple[float, float, tuple[float, ...]]:
    """Returns the seconds of compilation, to the first token, and between tokens."""
    sampling = Sampling(temperature=0, max_tokens=steps + warmup)
    rules, weights = sampling.rules(), params.params
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (rows, context)).tolist()
    filled = prompts + [[0]] * (-rows % layout.ways("batch"))
    length = cache_slots(config, prompts, sampling.max_tokens)
    inputs = initial_inputs(filled, None, rules, sampling.seed, config.vocab_size)
    chunks = prefill_chunks(filled, min(CHUNK, length))

    def read_prompts() -> Any:
        state = init_decode_state(config, layout, length, **inputs)
        for tokens_BC, first_position in chunks:
            state = prefill(config, layout, weights, state, tokens_BC, first_position)
        return state

    began = time.perf_counter()
    jax.block_until_ready(decode(config, layout, weights, rules, read_prompts()))
    first_run = time.perf_counter() - began
    began = time.perf_counter()
    state, tokens_B = decode(config, layout, weights, rules, read_prompts())
    np.asarray(tokens_B)
    first_token = time.perf_counter() - began
    ends = []
    for _ in range(warmup + steps):
        previous = tokens_B
        state, tokens_B = decode(config, layout, weights, rules, state)
        np.asarray(previous)
        ends.append(time.perf_counter())
    np.asarray(tokens_B)
    ends = ends[warmup - 1 :]
    between = tuple(after - before for before, after in itertools.pairwise(ends))
    return max(0.0, first_run - first_token), first_token, between


def _exceeds(
    device: jax.Device, config: ModelConfig, params: PreparedParams, rows: int, length: int, count: int
) -> bool:
    """Returns whether weights, caches and logits exceed the memory of a device that says how much it has."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    weights = sum(x.nbytes for x in jax.tree.leaves(params.params))
    needed = (weights + rows * (row_bytes(config, length) + 8 * config.vocab_size)) / count
    return limit is not None and needed > limit


def copy_rate(size: int = 1 << 26, threads: int | None = None) -> float:
    """Measures the bytes a second that all cores read and write when they copy arrays that exceed the caches."""
    source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        parts = [slice(i, i + size // 8) for i in range(0, size, size // 8)]
        best = 0.0
        for _ in range(5):
            began = time.perf_counter()
            list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))
            best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best
