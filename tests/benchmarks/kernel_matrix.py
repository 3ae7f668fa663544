"""Every attention kernel with every request that a model may make, on this machine's device; and the speed of each.

    python -m tests.benchmarks.kernel_matrix [--small] [--only=matrix|times] [--lengths=4096,16384] [--part=1/3] [--json=FILE] [--seconds=220]

The first table has a row for each case of tests/model/kernels/matrix.py: the kernel that the door chooses, and for each
kernel the largest error of its result and of its gradients, in units of the rounding of bfloat16 (2^-9), against softmax
in float32; the same file says which errors are allowed, and why. Rows of decoding steps that read keys in pages follow, from
tests/model/kernels/paged_matrix.py, without gradients. A kernel that does not take a case is listed below with
its reason. The second table has causal attention in bfloat16 at head width 128, 16 heads, 16,384 tokens in rows of 4,096
and of 16,384: the median over groups of five calls, forward and forward with backward, and TFLOP/s, of which half of T x T is counted,
2.5 times as much for the backward pass. Kernels take turns.

Ends with status 1 if an error is not allowed, if a kernel fails, or if cells were left out because the seconds were over.
--small takes the first four cases and short rows, for a machine without an accelerator; the kernels of GPUs and TPUs are
refused there.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.kernels import FOR_PAGES, KERNELS, attend, choose, new_request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from tests.benchmarks.command import run
from tests.model.kernels import matrix, paged_matrix

UNIT = 2.0**-9
ALL = (*KERNELS, *FOR_PAGES)
# The kernels that hold all scores at once take no part in the timings.
TIMED = [kernel for kernel in KERNELS if kernel.name not in ("plain", "blocks")]

# Calls that are timed together: the device works on one while the next is handed to it.
CALLS = 5
LATE = "the seconds were over"


def check_cells(cases: tuple[matrix.Case, ...], length: int, ends: float) -> list[dict[str, Any]]:
    """Runs every kernel on every case. Device kernels come first, and several programs are compiled at once."""
    rows = [{"case": case.name, "kernels": {}, "refused": {}} for case in cases]
    problems = [matrix.problem(case, length) for case in cases]
    for row, asked in zip(rows, problems, strict=True):
        choice = choose(asked.request())
        row["chosen"] = choice.kernel.name
    cells = [
        (row, asked, kernel)
        for device_kernels in (True, False)
        for row, asked in zip(rows, problems, strict=True)
        for kernel in KERNELS
        if bool(kernel.platforms) == device_kernels
    ]
    wanted: dict[str, list[np.ndarray]] = {}
    pool = concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    waiting = []
    for row, asked, kernel in cells:
        reason = kernel.supports(asked.request())
        if reason is not None:
            row["refused"][kernel.name] = reason
            continue
        program = pool.submit(lambda asked=asked, kernel=kernel: matrix.with_gradients(asked, kernel).lower().compile())
        waiting.append((row, asked, kernel, program))
    for row, asked, kernel, program in waiting:
        if time.monotonic() > ends:
            row["kernels"][kernel.name] = {"failed": LATE}
            continue
        if row["case"] not in wanted:
            wanted[row["case"]] = matrix.reference(asked)
        try:
            got = program.result(timeout=max(1.0, ends - time.monotonic()))(*matrix.arguments(asked))
            errors = matrix.errors(got, wanted[row["case"]], asked.case.sinks)
            row["kernels"][kernel.name] = {"errors": errors, "wrong": matrix.wrong(errors)}
        except TimeoutError:
            row["kernels"][kernel.name] = {"failed": LATE}
        except Exception as error:  # a kernel that promised to take the request
            row["kernels"][kernel.name] = {"failed": _short(error)}
        print(f"{row['case']:42}{kernel.name:10}{cell_words(row, kernel.name)}", file=sys.stderr, flush=True)
    pool.shutdown(wait=False, cancel_futures=True)
    return rows


def check_pages(cases: tuple[paged_matrix.Case, ...], ends: float) -> list[dict[str, Any]]:
    """Runs every kernel that reads pages on every case of decoding."""
    rows = []
    for case in cases:
        asked = paged_matrix.problem(case)
        row: dict[str, Any] = {"case": case.name, "kernels": {}, "refused": {}}
        row["chosen"] = choose(asked.request(), FOR_PAGES).kernel.name
        for kernel in FOR_PAGES:
            if (reason := kernel.supports(asked.request())) is not None:
                row["refused"][kernel.name] = reason
                continue
            try:
                if time.monotonic() > ends:
                    raise TimeoutError(LATE)
                got = jax.jit(paged_matrix.program(asked, kernel))(*paged_matrix.arguments(asked))
                error = paged_matrix.error(got, paged_matrix.reference(asked))
                wrong = ["forward"] if paged_matrix.is_wrong(error) else []
                row["kernels"][kernel.name] = {"errors": {"forward": error}, "wrong": wrong}
            except Exception as error:  # a kernel that promised to take the request
                row["kernels"][kernel.name] = {"failed": _short(error)}
            print(f"{case.name:42}{kernel.name:10}{cell_words(row, kernel.name)}", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def milliseconds(program: Any, *arguments: Any) -> float:
    """Milliseconds of a call, of `CALLS` in a row."""
    began = time.perf_counter()
    for _ in range(CALLS):
        result = program(*arguments)
    jax.block_until_ready(result)
    return 1e3 * (time.perf_counter() - began) / CALLS


def time_pages(small: bool) -> list[dict[str, Any]]:
    """Milliseconds of attention to pages in a decoding step, for each kernel: 16 rows of up to 4,096 keys, or few."""
    lengths = (40,) * 2 if small else tuple(256 * (i + 1) for i in range(16))
    case = paged_matrix.Case("time", heads=16 if not small else 4, kv_heads=4, lengths=lengths)
    asked, rows = paged_matrix.problem(case), []
    for kernel in FOR_PAGES:
        if kernel.supports(asked.request()) is not None:
            continue
        program = jax.jit(paged_matrix.program(asked, kernel)).lower(*paged_matrix.arguments(asked)).compile()
        found = []
        for _ in range(10):
            found.append(milliseconds(program, *paged_matrix.arguments(asked)))
        read = 2 * sum(lengths) * case.kv_heads * case.width * 2
        median = statistics.median(found)
        rows.append(
            {"kernel": kernel.name, "ms": median, "least_ms": min(found), "n": len(found), "GB/s": read / median / 1e6}
        )
    return rows


def _short(error: Exception) -> str:
    words = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {words[0][:200]}"


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a kernel of a row failed or is beyond the tolerance."""
    return any("failed" in cell or cell["wrong"] for cell in row["kernels"].values())


def cell_words(row: dict[str, Any], name: str) -> str:
    """The errors of a kernel in units, result and worst gradient; a mark where they are not allowed."""
    if name in row["refused"]:
        return "-"
    cell = row["kernels"].get(name)
    if cell is None:  # of pages, or of arrays alone
        return "-"
    if "failed" in cell:
        return "FAILED"
    errors, mark = cell["errors"], " WRONG" if cell["wrong"] else ""
    gradients = [error for result, error in errors.items() if result != "forward"]
    return (
        " / ".join(f"{error / UNIT:.1f}" for error in (errors["forward"], *([max(gradients)] if gradients else ())))
        + mark
    )


def times(lengths: tuple[int, ...], tokens: int, heads: int, rounds: int, ends: float) -> list[dict[str, Any]]:
    """The milliseconds of a call of each kernel that takes causal attention, in turn."""
    rows = []
    for length in lengths:
        draw = np.random.default_rng(0)
        shape = (max(1, tokens // length), length, heads, 128)
        q, k, v, towards = (jnp.asarray(draw.standard_normal(shape), jnp.bfloat16) for _ in range(4))
        programs = {}
        for packed in (False, True):
            arguments = (visibility_of(packed, length), q, k, v, towards)
            for kernel in TIMED:
                found, failures = timed_programs(kernel, arguments)
                programs |= {(kernel.name, packed, backward): program for backward, program in found.items()}
                rows += [{"kernel": kernel.name, "length": length, "failed": failure} for failure in failures]
        measured: dict[Any, list[float]] = {key: [] for key in programs}
        for _ in range(rounds):
            for key, program in programs.items():
                if time.monotonic() > ends:
                    break
                seen = visibility_of(key[1], length)
                measured[key].append(milliseconds(program, seen, q, k, v, towards))
        pairs = shape[0] * heads * length * length / 2
        for (name, packed, backward), found in measured.items():
            if not found:
                rows.append({"kernel": name, "length": length, "failed": LATE})
                continue
            median, flops = statistics.median(found), 4 * pairs * 128 * (3.5 if backward else 1)
            rows.append(
                {
                    "kernel": name, "length": length, "packed": packed, "backward": backward, "n": len(found),
                    "ms": median, "least_ms": min(found), "tflops": None if packed else flops / median / 1e9,
                }
            )  # fmt: skip
    return rows


def visibility_of(packed: bool, length: int) -> Any:
    """Causal, with one document or five in a row."""
    ids = jnp.asarray(np.arange(length)[None] * 5 // length, jnp.int32) if packed else None
    return causal(Coordinates(length, segment_ids=ids))


def timed_programs(kernel: Any, arguments: tuple[Any, ...]) -> tuple[dict[bool, Any], list[str]]:
    """The compiled programs of a kernel, by whether they have the backward pass, and failures; nothing if refused."""
    scoring = Scoring(128**-0.5)
    visibility, q, k, v, _ = arguments
    if kernel.supports(new_request(q, k, v, visibility, scoring)) is not None:
        return {}, []

    def forward(visibility: Any, q: Any, k: Any, v: Any, towards: Any) -> Any:
        return attend(q, k, v, visibility, scoring, kernels=(kernel,))

    def backward(visibility: Any, q: Any, k: Any, v: Any, towards: Any) -> Any:
        return jax.vjp(lambda *x: attend(*x, visibility, scoring, kernels=(kernel,)), q, k, v)[1](towards)

    found, failures = {}, []
    for with_backward, function in enumerate((forward, backward)):
        try:
            program = jax.jit(function).lower(*arguments).compile()
            jax.block_until_ready(program(*arguments))
            found[bool(with_backward)] = program
        except Exception as error:  # whatever the library says is the result
            failures.append(_short(error))
    return found, failures


def main() -> None:
    """Prints the tables; ends with status 1 if a cell is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few cases and short rows")
    parser.add_argument("--only", choices=("matrix", "times"), help="one of the two tables")
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="the k-th of n parts of the cases; n processes may run at once"
    )
    parser.add_argument("--lengths", default="4096,16384", help="of the rows that are timed")
    parser.add_argument("--json", help="a file for all values")
    parser.add_argument("--seconds", type=float, default=220, help="no cell begins after these")
    options = parser.parse_args()
    device, began = jax.devices()[0], time.monotonic()
    ends = began + options.seconds
    print(f"{device.device_kind}, jax {jax.__version__}; the unit of errors is 2^-9")
    result: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__}
    bad = False
    if options.only != "times":
        part, parts = map(int, options.part.split("/"))
        cases = (matrix.CASES[:4] if options.small else matrix.CASES)[part - 1 :: parts]
        rows = check_cells(cases, 256 if options.small else 1024, ends)
        paged = paged_matrix.CASES[:2] if options.small else paged_matrix.CASES
        result["matrix"] = rows = rows + check_pages(paged[part - 1 :: parts], ends)
        names = [kernel.name for kernel in ALL if any(kernel.name in row["kernels"] for row in rows)]
        print(f"{'case':42}{'chosen':10}" + "".join(f"{name:>16}" for name in names))
        for row in rows:
            print(f"{row['case']:42}{row['chosen']:10}" + "".join(f"{cell_words(row, name):>16}" for name in names))
        for row in rows:
            print("".join(f"  {row['case']}: not {name}: {why}\n" for name, why in row["refused"].items()), end="")
            for name, cell in row["kernels"].items():
                if "failed" in cell:
                    print(f"  {row['case']}: {name} FAILED: {cell['failed']}")
        bad |= any(map(is_wrong, rows))
    if options.only != "matrix":
        small = options.small
        lengths = (256,) if small else tuple(map(int, options.lengths.split(",")))
        tokens, heads, rounds = (512, 2, 3) if small else (16384, 16, 10)
        result["times"] = rows = times(lengths, tokens, heads, rounds, ends)
        print(f"{'kernel':10}{'length':>8}{'documents':>11}{'pass':>10}{'ms':>10}{'TFLOP/s':>9}{'n':>4}")
        for row in rows:
            if "failed" in row:
                print(f"{row['kernel']:10}{row['length']:>8} FAILED: {row['failed']}")
                bad = True
                continue
            passes, speed = "both" if row["backward"] else "forward", row["tflops"]
            packed, words = "five" if row["packed"] else "one", "" if speed is None else f"{speed:.3g}"
            print(
                f"{row['kernel']:10}{row['length']:>8}{packed:>11}{passes:>10}{row['ms']:>10.3f}{words:>9}{row['n']:>4}"
            )
        result["pages"] = time_pages(small)
        for row in result["pages"]:
            print(f"{row['kernel']:10} decoding from pages {row['ms']:10.3f} ms {row['GB/s']:9.3g} GB/s, n={row['n']}")
    result |= {"seconds": time.monotonic() - began, "wrong": bad}
    print(f"{result['seconds']:.0f} s; " + ("WRONG or failed: see above" if bad else "every cell is right or refused"))
    if options.json:
        from pathlib import Path

        Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    sys.stdout.flush()
    os._exit(int(bad))  # compilations that nobody waits for any more would hold the process


if __name__ == "__main__":
    run(main)
