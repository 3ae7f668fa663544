"""Attention kernels on this machine's device: how far each is from float64, and how long it takes.

    python -m tests.benchmarks.attention [--lengths=1024,4096,8192] [--widths=64,128] [--repeats=20]

The first table has one row for each request that a model may make (grouped heads, packed documents, a window, a
soft-cap, sinks, linear biases) and one column for each kernel: |out - ref| / |ref|, and the same for the gradients of
queries, keys and values, against a plain softmax in float64 on the CPU. A kernel that does not take a request is named
as such; `cairn` is the one that model/kernels chooses, named at the end of the row, and those after it are each of its
kernels. The second has times of causal attention in bfloat16, 2 x 16 heads: forward, and forward with backward, and
the share of the device's peak that its matrix products reach (half of T x T counted).
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.patterns import SlidingWindow
from model.kernels import KERNELS as OURS
from model.kernels import attend, choose, new_request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from model.positions.alibi import LinearBias, slopes
from tests.benchmarks.command import run
from train.run.utilization import peak_flops

Arrays = dict[str, Any]
REQUESTS: dict[str, Arrays] = {
    "causal": {},
    "grouped 4:1": {"kv_heads": 2},
    "packed": {"packed": True},
    "window 100": {"window": 100},
    "soft-cap 20": {"softcap": 20.0},
    "sinks": {"sinks": True},
    "linear bias": {"alibi": True},
    "width 192, values 128": {"width": 192, "value_width": 128},
    "packed, grouped, window, soft-cap": {"packed": True, "kv_heads": 2, "window": 100, "softcap": 20.0},
}


class UnsupportedError(Exception):
    """A kernel that does not take a request."""


def inputs(
    length: int, width: int, dtype: str, *, batch: int = 2, heads: int = 8, kv_heads: int = 8, value_width: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random queries (B, T, N, H), keys (B, T, K, H) and values (B, T, K, Hv)."""
    draw = np.random.default_rng(0)
    shapes = ((heads, width), (kv_heads, width), (kv_heads, value_width or width))
    q, k, v = (jnp.asarray(draw.standard_normal((batch, length, *shape)), dtype) for shape in shapes)
    return q, k, v


def documents(length: int, batch: int = 2) -> jax.Array:
    """Three documents a row, of different lengths: their numbers (B, T), from 1."""
    cuts = [sorted(np.random.default_rng(row).choice(np.arange(1, length), 2, replace=False)) for row in range(batch)]
    return jnp.asarray([1 + sum((np.arange(length) >= cut).astype(np.int32) for cut in row) for row in cuts])


def request_values(request: Arrays, length: int, heads: int) -> Arrays:
    """The options of all kernels: visible pairs, scale, soft-cap, sinks and slopes."""
    index_BT = jnp.arange(length)[None]
    mask_BTS = index_BT[:, :, None] >= index_BT[:, None]
    segment_ids = documents(length) if request.get("packed") else None
    visibility = causal(Coordinates(length, segment_ids=segment_ids))
    if segment_ids is not None:
        mask_BTS = mask_BTS & (segment_ids[:, :, None] == segment_ids[:, None])
    window = request.get("window")
    if window:
        mask_BTS = mask_BTS & (index_BT[:, :, None] - index_BT[:, None] < window)
        visibility = visibility.with_pattern(SlidingWindow(size=window))
    sink_N = jnp.linspace(-1, 2, heads) if request.get("sinks") else None
    return {
        "visibility": visibility, "mask": mask_BTS, "segment_ids": segment_ids, "window": window,
        "softcap": request.get("softcap"), "sink": sink_N, "slopes": slopes(heads) if request.get("alibi") else None, "index": index_BT,
    }  # fmt: skip


def reference(q: Any, k: Any, v: Any, options: Arrays) -> jax.Array:
    """Softmax(q k^T / sqrt(H)) v, pair by pair, in the dtype of its inputs."""
    groups = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    scores_BNTS = jnp.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    if options["softcap"]:
        scores_BNTS = options["softcap"] * jnp.tanh(scores_BNTS / options["softcap"])
    if options["slopes"] is not None:
        positions = np.asarray(options["index"])[0]
        scores_BNTS += np.asarray(options["slopes"])[:, None, None] * (positions[None, :] - positions[:, None])
    scores_BNTS = jnp.where(np.asarray(options["mask"])[:, None], scores_BNTS, -jnp.inf)
    highest = jnp.max(scores_BNTS, -1, keepdims=True)
    weights_BNTS = jnp.exp(scores_BNTS - highest)
    total = weights_BNTS.sum(-1, keepdims=True)
    if options["sink"] is not None:
        total += jnp.exp(np.asarray(options["sink"], np.float64)[:, None, None] - highest)
    return jnp.einsum("bnts,bsnh->btnh", weights_BNTS / total, v)


def cairn(kernels: tuple[Any, ...], q: Any, k: Any, v: Any, options: Arrays) -> jax.Array:
    """The one door of the project, to the first of these kernels that takes the request."""
    scoring = Scoring(scale=q.shape[-1] ** -0.5, softcap=options["softcap"])
    bias = None if options["slopes"] is None else LinearBias(options["slopes"])
    return attend(q, k, v, options["visibility"], scoring, bias=bias, sink_N=options["sink"], kernels=kernels)


def chosen_kernel(q: Any, k: Any, v: Any, options: Arrays) -> str:
    """The name of the kernel that the door chooses."""
    scoring, has_sinks = Scoring(scale=1.0, softcap=options["softcap"]), options["sink"] is not None
    return choose(new_request(q, k, v, options["visibility"], scoring, has_sinks=has_sinks)).kernel.name


def library(implementation: str, q: Any, k: Any, v: Any, options: Arrays) -> jax.Array:
    """jax.nn.dot_product_attention; documents are told apart by a mask, T x T."""
    if options["softcap"] or options["sink"] is not None or options["slopes"] is not None or v.shape[-1] != q.shape[-1]:
        raise UnsupportedError
    mask = None if options["segment_ids"] is None else options["mask"][:, None]
    window = (options["window"] - 1, 0) if options["window"] else None
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=True, local_window_size=window, implementation=implementation
    )


KERNELS: dict[str, Callable[..., jax.Array]] = {
    "cairn": functools.partial(cairn, OURS),
    **{kernel.name: functools.partial(cairn, (kernel,)) for kernel in OURS},
    "jax.nn xla": functools.partial(library, "xla"),
    "jax.nn cudnn": functools.partial(library, "cudnn"),
}


def with_gradients(kernel: Callable[..., jax.Array], options: Arrays) -> Callable[..., Any]:
    """A function that gives the output and the gradients of its product with fixed random numbers."""

    def both(q: Any, k: Any, v: Any, weight: Any) -> Any:
        y, pull = jax.vjp(lambda *x: kernel(*x, options), q, k, v)
        return (y, *pull(weight.astype(y.dtype)))

    return both


def error(got: Any, want: Any) -> float:
    """|got - want| / |want|, infinite for anything that is not a number."""
    difference = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    relative = float(difference / np.linalg.norm(np.asarray(want, np.float64)))
    return relative if np.isfinite(relative) else float("inf")


def show_errors(dtype: str, precision: str | None, length: int = 512) -> None:
    """Prints the table of errors: output / worst gradient."""
    print(f"\nerror against float64, {dtype}, matmul precision {precision or 'as it comes'}: output / worst gradient")
    print(f"{'':36}" + "".join(f"{name:>22}" for name in KERNELS))
    cpu = jax.devices("cpu")[0]
    for name, request in REQUESTS.items():
        shape = {key: request[key] for key in ("kv_heads", "value_width") if key in request}
        q, k, v = inputs(length, request.get("width", 64), dtype, **shape)
        options = request_values(request, length, q.shape[2])
        weight = jnp.asarray(np.random.default_rng(1).standard_normal((*q.shape[:3], v.shape[-1])), dtype)
        with jax.enable_x64(True), jax.default_device(cpu):
            exact = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v, weight)]
            want = jax.jit(with_gradients(reference, options))(*exact)
            want = [np.asarray(x) for x in want]
        cells = []
        for kernel in KERNELS.values():
            try:
                with jax.default_matmul_precision(precision):
                    got = jax.jit(with_gradients(kernel, options))(q, k, v, weight)
                errors = [error(a, b) for a, b in zip(got, want, strict=True)]
                cells.append(f"{errors[0]:.1e} / {max(errors[1:]):.1e}")
            except UnsupportedError:
                cells.append("not taken")
            except Exception as problem:  # whatever a library raises for a device that it does not know
                cells.append(type(problem).__name__)
        print(
            f"{name:36}" + "".join(f"{cell:>22}" for cell in cells) + f"  {chosen_kernel(q, k, v, options)}", flush=True
        )


def median_ms(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Milliseconds of a call, the median over repeats, after two that are not counted."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[2:])


def show_times(lengths: list[int], widths: list[int], repeats: int) -> None:
    """Prints the table of times."""
    device = jax.devices()[0]
    peak = peak_flops(device.device_kind, "bfloat16")
    print(f"\ntimes on {device.device_kind}, bfloat16, causal, batch 2, 16 heads, median of {repeats}")
    print(f"{'length':>8}{'width':>7}  {'kernel':<14}{'forward ms':>12}{'of peak':>9}{'both ms':>10}{'of peak':>9}")
    for length in lengths:
        for width in widths:
            q, k, v = inputs(length, width, "bfloat16", heads=16, kv_heads=16)
            options = request_values({}, length, 16)
            flops = 2 * 16 * 2 * 2 * width * length * (length + 1) / 2
            for name, kernel in KERNELS.items():
                forward = jax.jit(lambda q, k, v, kernel=kernel, options=options: kernel(q, k, v, options))
                both = jax.jit(with_gradients(kernel, options))
                try:
                    first = median_ms(forward, (q, k, v), repeats)
                    whole = median_ms(both, (q, k, v, v), repeats)
                except Exception as problem:
                    print(f"{length:>8}{width:>7}  {name:<14}{type(problem).__name__}", flush=True)
                    continue
                shares = (
                    "-" if peak is None else f"{100 * factor * flops / (1e-3 * ms) / peak:.1f}%"
                    for ms, factor in ((first, 1), (whole, 3.5))
                )
                cells = f"{first:>12.3f}{next(shares):>9}{whole:>10.3f}{next(shares):>9}"
                print(f"{length:>8}{width:>7}  {name:<14}{cells}", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1024,4096,8192")
    parser.add_argument("--widths", default="64,128")
    parser.add_argument("--repeats", type=int, default=20)
    flags = parser.parse_args()
    show_errors("float32", "highest")
    show_errors("float32", None)
    show_errors("bfloat16", None)
    show_times([int(x) for x in flags.lengths.split(",")], [int(x) for x in flags.widths.split(",")], flags.repeats)


if __name__ == "__main__":
    run(main)
