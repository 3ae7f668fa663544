"""The matrix of requests that a model may make, for every kernel: made here, checked against softmax in float32.

The reference computes whole arrays of T x T, from masks that are written down here and not by the code under test.

Tolerance. A kernel with bfloat16 inputs makes four kinds of rounding, each with a relative error of up to u = 2^-9: of
scaled queries, of softmax weights, of the gradients of scores, and of the result. The first three are independent for
each number and average out over a sum: their share of its deviation is about u each. The last is at most u of the number
itself. Errors are therefore divided by the deviation plus the size of the number, where the deviation is that of the
token's numbers, or that of all numbers if it is larger: the first keys of a row are seen by many queries, and have larger
gradients. The largest of 10^5 to 10^6 normal errors is about 5 of their deviations, so that 5 * sqrt(3) * u + u, about
10 u, is the largest to expect of the result: 16 u are allowed. The gradient of a score is a difference: the product of the
gradient and a value, less that of the gradient and the rounded result. For queries with few keys both are nearly equal,
and about 6 times as large as what the gradients of all queries deviate: 64 u are allowed for gradients. A wrong mask,
scale or cap is an error of about 1, or 500 u, at the first queries of documents, windows and chunks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.patterns import Chunked, SlidingWindow
from model.kernels import attend, new_request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.positions.alibi import LinearBias, slopes

TOLERANCE, GRADIENT_TOLERANCE = 16 * 2.0**-9, 64 * 2.0**-9


@dataclasses.dataclass(frozen=True)
class Case:
    """One request: the heads of a row see the keys of their document, window and chunk."""

    name: str
    packed: bool = False
    kv_heads: int = 4
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    sinks: bool = False
    bias: bool = False
    width: int = 64
    value_width: int = 64
    causal: bool = True


CASES = (
    Case("causal"),
    Case("packed documents", packed=True),
    Case("grouped heads", kv_heads=2),
    Case("one key head", kv_heads=1),
    Case("window", window=100),
    Case("chunks", chunk=96),
    Case("soft-cap", softcap=2.0),
    Case("sinks", sinks=True),
    Case("linear bias", bias=True),
    Case("widths 192 and 128", width=192, value_width=128),
    Case("width 128", width=128, value_width=128),
    Case("width 256", width=256, value_width=256),
    Case("width 80", width=80, value_width=80),
    Case("packed, grouped", packed=True, kv_heads=2),
    Case("packed, width 128", packed=True, width=128, value_width=128),
    Case("packed, window", packed=True, window=100),
    Case("packed, chunks", packed=True, chunk=96),
    Case("packed, sinks, window, soft-cap, grouped", packed=True, sinks=True, window=100, softcap=2.0, kv_heads=2),
    Case("both directions", causal=False),
    Case("both directions, packed", causal=False, packed=True),
)  # fmt: skip
HEADS = 4


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arrays of a case: a value for `attend`, and a mask (B, T, T) and biases (N, T, T) for the reference."""

    case: Case
    arrays: tuple[Any, ...]  # queries, keys, values, sinks (N,)
    towards: Any  # the gradient of the result
    visibility: Any
    mask: np.ndarray

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.case.width**-0.5, self.case.softcap)

    @property
    def bias(self) -> LinearBias | None:
        return LinearBias(slopes(HEADS)) if self.case.bias else None

    def request(self, **asked: Any) -> Any:
        """The request to a kernel."""
        return new_request(
            *self.arrays[:3], self.visibility, self.scoring, bias=self.bias, has_sinks=self.case.sinks, **asked
        )


def problem(case: Case, length: int = 256, batch: int = 2, dtype: str = "bfloat16") -> Problem:
    """Draws the arrays. Two documents end inside a block of 128, and one has a single token."""
    draw = np.random.default_rng(0)
    shapes = [(HEADS, case.width), (case.kv_heads, case.width), (case.kv_heads, case.value_width)]
    arrays = [jnp.asarray(draw.normal(size=(batch, length, *shape)), dtype) for shape in shapes]
    sink_N = jnp.asarray(draw.normal(size=HEADS), dtype)
    towards = jnp.asarray(draw.normal(size=(batch, length, HEADS, case.value_width)), dtype)
    ends = [np.array([length * 3 // 8 + 5, length * 3 // 8 + 6, length * 7 // 8]) + row for row in range(batch)]
    number = np.stack([np.searchsorted(end, np.arange(length), side="right") for end in ends])
    index = np.arange(length)
    begins = np.stack([np.concatenate([[0], end])[row] for end, row in zip(ends, number, strict=True)])
    place = index - begins if case.packed else np.broadcast_to(index, (batch, length))
    back = place[:, :, None] - place[:, None, :]
    mask = np.ones((batch, length, length), bool)
    if case.packed:
        mask &= number[:, :, None] == number[:, None, :]
    if case.causal:
        mask &= index[:, None] >= index
    if case.window:
        mask &= back < case.window
    if case.chunk:
        mask &= place[:, :, None] // case.chunk == place[:, None, :] // case.chunk
    ids, positions = (jnp.asarray(x, jnp.int32) if case.packed else None for x in (number, place))
    tokens = Coordinates(length, position=positions, segment_ids=ids)
    visibility = causal(tokens, consecutive_positions=True) if case.causal else bidirectional(tokens)
    if case.window:
        visibility = visibility.with_pattern(SlidingWindow(size=case.window))
    if case.chunk:
        visibility = visibility.with_pattern(Chunked(size=case.chunk))
    return Problem(case, (*arrays, sink_N), towards, visibility, mask)


def equation(asked: Problem, q: Any, k: Any, v: Any, sink: Any, mask: Any) -> Any:
    """The heads' outputs, (B, T, N, H); uses `slopes` of a head for a bias."""
    case, length = asked.case, q.shape[1]
    k, v = (jnp.repeat(x, HEADS // case.kv_heads, axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * case.width**-0.5
    if case.softcap:
        scores = case.softcap * jnp.tanh(scores / case.softcap)
    if case.bias:
        distance = jnp.arange(length)[:, None] - jnp.arange(length)
        scores = scores - jnp.asarray(slopes(HEADS))[:, None, None] * distance
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
    if case.sinks:
        column = jnp.broadcast_to(sink[None, :, None, None], (*scores.shape[:3], 1))
        scores = jnp.concatenate([scores, column], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., :length]
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def reference(asked: Problem) -> list[np.ndarray]:
    """The result and the gradients of queries, keys, values and sinks, in float32 from the same rounded inputs."""

    def both(q: Any, k: Any, v: Any, sink: Any, towards: Any, mask: Any) -> Any:
        y, pull = jax.vjp(lambda *x: equation(asked, *x, mask), q, k, v, sink)
        return (y, *pull(towards))

    arrays = [jnp.asarray(x, jnp.float32) for x in (*asked.arrays, asked.towards)]
    with jax.default_matmul_precision("highest"):
        return [np.asarray(x) for x in jax.jit(both)(*arrays, jnp.asarray(asked.mask))]


def both(asked: Problem, kernel: Any, platform: str | None = None) -> Any:
    """A function of `arguments` that returns a kernel's result and gradients, as `reference` does."""

    def function(visibility: Any, q: Any, k: Any, v: Any, sink: Any, towards: Any) -> Any:
        def run(q: Any, k: Any, v: Any, sink: Any) -> Any:
            sink = sink if asked.case.sinks else None
            options = {"bias": asked.bias, "sink_N": sink, "platform": platform, "kernels": (kernel,)}
            return attend(q, k, v, visibility, asked.scoring, **options)

        y, pull = jax.vjp(run, q, k, v, sink)
        return (y, *pull(towards.astype(y.dtype)))

    return function


def with_gradients(asked: Problem, kernel: Any) -> jax.stages.Traced:
    """The program of a kernel with its gradients, traced; its arguments are those of `arguments`."""
    return jax.jit(both(asked, kernel)).trace(*arguments(asked))


def arguments(asked: Problem) -> tuple[Any, ...]:
    """The arguments of the program of a kernel."""
    return (asked.visibility, *asked.arrays, asked.towards)


def errors(got: Any, want: list[np.ndarray], has_sinks: bool) -> dict[str, float]:
    """The largest error of each result, in the measure of the module's docstring; inf if any is not a number."""
    found = {}
    for name, one, other in zip(("forward", "dq", "dk", "dv", "dsinks"), got, want, strict=True):
        if name == "dsinks" and not has_sinks:
            continue
        difference = np.abs(np.asarray(one, np.float32) - other)
        if name == "dsinks":  # four numbers, of which the largest stands for the deviation
            deviation = np.abs(other).max()
        else:
            deviation = np.maximum(other.std(axis=(2, 3), keepdims=True), other.std())
        error = float(np.max(difference / (deviation + np.abs(other))))
        found[name] = error if np.isfinite(error) else float("inf")
    return found


def wrong(found: dict[str, float]) -> list[str]:
    """The results whose errors are beyond the tolerance."""
    return [name for name, error in found.items() if error > (TOLERANCE if name == "forward" else GRADIENT_TOLERANCE)]
