"""Requests of decoding steps to pages, for every kernel that reads pages: made here, checked against softmax in float32.

The pool is full of NaN before its tokens are written by the cache, as it may be where another text was. Rows have their
pages in a random order. Errors are measured as in matrix.py, against the rounded keys and values.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.paged_cache import SCALE, PagedCache
from model.kernels import attend, new_request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from tests.model.kernels.matrix import TOLERANCE


@dataclasses.dataclass(frozen=True)
class Case:
    """One query a row, which sees as many keys as `lengths` says."""

    name: str
    heads: int = 4
    kv_heads: int = 2
    width: int = 128
    page: int = 16
    lengths: tuple[int, ...] = (1, 16, 17, 150, 700)
    softcap: float | None = None
    stored: str | None = None
    dtype: str = "bfloat16"


CASES = (
    Case("pages, grouped heads"),
    Case("pages, one key head", kv_heads=1),
    Case("pages, a head each", kv_heads=4),
    Case("pages, eight queries a key head", heads=16),
    Case("pages, soft-cap", softcap=2.0),
    Case("pages, width 256", width=256, lengths=(3, 90)),
    Case("pages, width 64", width=64),
    Case("pages of 64", page=64),
    Case("pages of 4", page=4, lengths=(1, 4, 5, 33)),
    Case("pages, one row", lengths=(300,)),
    Case("pages in int8", stored="int8"),
    Case("pages in float8", stored="float8_e4m3fn"),
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arguments of a kernel, and the numbers that its cache holds (B, S, K, H), NaN where nothing is written."""

    case: Case
    q: Any
    k: Any
    v: Any
    visibility: Any
    written: tuple[np.ndarray, np.ndarray]

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.case.width**-0.5, self.case.softcap)

    def request(self, **asked: Any) -> Any:
        return new_request(self.q, self.k, self.v, self.visibility, self.scoring, **asked)


def problem(case: Case, *, clears: bool = True) -> Problem:
    """Writes keys and values through a cache that clears its pages."""
    rng, rows, longest = np.random.default_rng(0), len(case.lengths), max(case.lengths)
    count = -(-longest // case.page) + 1  # a page that no row reaches
    table = rng.permutation(rows * count + 3)[: rows * count].reshape(rows, count).astype(np.int32)
    shape = (rows * count + 3, case.kv_heads, case.page)
    arrays: dict[str, Any] = {
        name: jnp.full((*shape, case.width), 99 if case.stored == "int8" else jnp.nan, case.stored or case.dtype)
        for name in ("k", "v")
    }
    if case.stored:
        arrays |= {name + SCALE: jnp.full((*shape, 1), jnp.nan, jnp.float32) for name in ("k", "v")}
    cache = PagedCache(arrays, None, jnp.asarray(table), clears)
    new = {
        name: jnp.asarray(rng.normal(size=(rows, longest, case.kv_heads, case.width)), case.dtype)
        for name in ("k", "v")
    }
    positions = jnp.broadcast_to(jnp.arange(longest, dtype=jnp.int32), (rows, longest))
    _, view = cache.extend(new, positions, jnp.asarray(case.lengths, jnp.int32))
    written = tuple(np.asarray(view.arrays[name].block(0, count), np.float32).swapaxes(1, 2) for name in ("k", "v"))
    q = jnp.asarray(rng.normal(size=(rows, 1, case.heads, case.width)), case.dtype)
    index = jnp.asarray(case.lengths, jnp.int32)[:, None] - 1
    visibility = causal(Coordinates(1, index=index), Coordinates(count * case.page))
    return Problem(case, q, view.arrays["k"], view.arrays["v"], visibility, written)  # type: ignore[arg-type]


def reference(asked: Problem) -> np.ndarray:
    """The result (B, 1, N, H), row by row, in float64."""
    case, out = asked.case, []
    for row, length in enumerate(case.lengths):
        k, v = (np.repeat(x[row, :length], case.heads // case.kv_heads, axis=1).astype(float) for x in asked.written)
        scores = np.einsum("nh,snh->ns", np.asarray(asked.q, float)[row, 0], k) * case.width**-0.5
        if case.softcap:
            scores = case.softcap * np.tanh(scores / case.softcap)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out.append(np.einsum("ns,snh->nh", weights / weights.sum(axis=-1, keepdims=True), v)[None])
    return np.stack(out)


def program(asked: Problem, kernel: Any, platform: str | None = None) -> Any:
    """A function of `arguments` that returns the result of a kernel."""

    def function(q: Any, k: Any, v: Any, visibility: Any) -> Any:
        request = new_request(q, k, v, visibility, asked.scoring, platform=platform)
        return kernel.attend(request, q, k, v, None, None)

    return function


def arguments(asked: Problem) -> tuple[Any, ...]:
    """The arguments of `program`."""
    return asked.q, asked.k, asked.v, asked.visibility


def error(got: Any, want: np.ndarray) -> float:
    """The largest error, divided by the deviation of the row plus the size of the number; inf if any is not a number."""
    deviation = want.std(axis=(2, 3), keepdims=True)
    found = float(np.max(np.abs(np.asarray(got, float) - want) / (deviation + np.abs(want))))
    return found if np.isfinite(found) else float("inf")


def is_wrong(found: float) -> bool:
    """Whether an error is beyond the tolerance."""
    return found > TOLERANCE


def step(case: Case, platform: str) -> Any:
    """A function of `step_arguments`: writes a token of every row into pages, and attends to them; returns both."""

    def function(arrays: Any, table: Any, q: Any, new: Any, lengths: Any) -> Any:
        cache, view = PagedCache(arrays, None, table, clears=True).extend(new, lengths[:, None] - 1, lengths)
        queries = Coordinates(1, index=lengths[:, None] - 1)
        scoring = Scoring(case.width**-0.5, case.softcap)
        pages = view.arrays["k"], view.arrays["v"]
        return attend(q, *pages, causal(queries, view.keys), scoring, platform=platform), cache.arrays

    return function


def step_arguments(case: Case, num_pages: int) -> tuple[Any, ...]:
    """The arguments of `step` for a pool of a number of pages."""
    rows, table = len(case.lengths), jnp.zeros((len(case.lengths), 64), jnp.int32)
    pool = (num_pages, case.kv_heads, case.page, case.width)
    arrays = {name: jnp.zeros(pool, case.stored or case.dtype) for name in ("k", "v")}
    if case.stored:
        arrays |= {name + SCALE: jnp.zeros((*pool[:3], 1), jnp.float32) for name in ("k", "v")}
    new = {name: jnp.zeros((rows, 1, *pool[1::2]), case.dtype) for name in ("k", "v")}
    return arrays, table, jnp.zeros((rows, 1, case.heads, case.width), case.dtype), new, jnp.asarray(case.lengths)


def copies(text: str, pool: tuple[int, ...]) -> list[str]:
    """The lines of a compiled program that copy or transpose an array as large as the pool."""
    found = re.findall(r"^.*= \w+\[([0-9,]+)\]\S* (?:copy|transpose|copy-start)\(.*$", text, re.MULTILINE)
    return [shape for shape in found if math.prod(map(int, shape.split(","))) >= math.prod(pool)]


BY_NAME = {case.name: case for case in CASES}
FEW = dataclasses.replace(CASES[0], lengths=(1, 16, 17, 70))


def check(case: Case, kernel: Any) -> None:
    """Asserts that a kernel takes a case, and gives its numbers."""
    asked = problem(case)
    assert kernel.supports(asked.request()) is None
    got = jax.jit(program(asked, kernel))(*arguments(asked))
    found = error(got, reference(asked))
    assert not is_wrong(found), found


def reason(kernel: Any, case: dict[str, Any], **asked: Any) -> Any:
    """Why a kernel does not take one row with these changes; None if it does."""
    return kernel.supports(problem(dataclasses.replace(FEW, **{"lengths": (1,)} | case)).request(**asked))


def lowered(case: Case, kernel: Any, lowering: str, platform: str) -> tuple[Problem, str]:
    """A case, and the text of its program for a platform that need not be here."""
    asked = problem(case)
    traced = jax.jit(program(asked, kernel, platform)).trace(*arguments(asked))
    return asked, traced.lower(lowering_platforms=(lowering,)).as_text()


def made_of_the_pool(asked: Problem, text: str) -> set[str]:
    """The operations of a program whose results are as large as the pool, or larger."""
    results = re.findall(r"= \"?stablehlo\.(\w+).*-> tensor<([0-9x]+)xbf16>", text)
    results += re.findall(r"= \"?stablehlo\.(\w+).* : tensor<([0-9x]+)xbf16>$", text, re.MULTILINE)
    return {name for name, shape in results if math.prod(map(int, shape.split("x"))) >= asked.k.pages.size}
