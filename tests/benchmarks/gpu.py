"""What a GPU at hand should be asked first: kernels, a LLaMA of 1.1 billion parameters beside PyTorch, a small model.

    python -m tests.benchmarks.gpu [--json=gpu.json] [--seconds=530] [--dry_run] [--small]

Takes under nine minutes. Every part is a process of its own with its own time limit, so that one that fails or hangs
costs no other; the most telling come first, and the same comparison is repeated at the end if time is left:

  llama       launch.bench of llama_1b.py (1.1 billion parameters, sequence 4,096, batch 4, bfloat16), layers unrolled
  torch       references/torch_llama.py: the same model of `transformers` with SDPA, fused AdamW and torch.compile
  scanned     as llama, its layers scanned
  packed      as llama, with packed documents
  matrix      kernel_matrix: every kernel with every request against softmax in float32
  times       kernel_matrix: milliseconds and TFLOP/s of every kernel, head width 128, 4,096 tokens, bfloat16
  shakespeare launch.bench of configs/shakespeare_char_gpu.py
  llama 3B    launch.bench of llama_1b.py with 28 layers of width 3,072: 3.0 billion parameters, 92 GiB
  invariant   inference/invariant.py: texts alone and in a crowd, with one program and with several, and their times
  llama again, torch again

Prints one table, each line when its part ends. --dry_run prints the commands. --small runs every part with tiny shapes,
on any device, to check this script.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.benchmarks.command import ROOT

BENCH = ("launch.bench", "--json")
LLAMA = "--config=tests/benchmarks/llama_1b.py"
TINY = (
    "--steps=2", "--warmup=1", "--set=model.num_layers=1", "--set=model.width=64", "--set=model.vocab_size=256",
    "--set=model.mixer.num_heads=2", "--set=model.mixer.num_kv_heads=1", "--set=model.ffn.width=64",
    "--set=data.batch_size=1", "--set=data.sequence_length=256",
)  # fmt: skip
TINY_CHARS = ("--steps=2", "--warmup=1", "--set=model.num_layers=1", "--set=data.batch_size=1")


@dataclasses.dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
      name: its line of the table.
      command: the module and its arguments.
      limit: the most seconds that it may take.
      small: the arguments that make it tiny.
      file: whether it writes its result into a file that it is given, rather than print it as JSON.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    small: tuple[str, ...]
    file: bool = False


MATRIX = "tests.benchmarks.kernel_matrix"
UNROLLED = (*BENCH, LLAMA, "--set=model.scan_layers=False")
LARGE = tuple(
    f"--set=model.{setting}"
    for setting in (
        "num_layers=28", "width=3072", "mixer.num_heads=24", "mixer.num_kv_heads=8", "ffn.width=8192",
    )
)  # fmt: skip
LLAMA_PART = Part("llama", UNROLLED, 110, TINY)
TORCH_PART = Part(
    "torch",
    ("tests.benchmarks.references.torch_llama",),
    130,
    ("--small", "--steps=2", "--batch=1", "--length=64", "--no_compile"),
)
PARTS = (
    LLAMA_PART,
    TORCH_PART,
    Part("scanned", (*BENCH, LLAMA), 110, TINY),
    Part("packed", (*UNROLLED, "--set=data.cross_document_attention=False"), 110, TINY),
    Part("matrix", (MATRIX, "--only=matrix", "--seconds=170"), 180, ("--small",), file=True),
    Part("times", (MATRIX, "--only=times", "--lengths=4096", "--seconds=70"), 80, ("--small",), file=True),
    Part("shakespeare", (*BENCH, "--config=configs/shakespeare_char_gpu.py", "--steps=100"), 60, TINY_CHARS),
    Part(
        "invariant",
        ("tests.benchmarks.inference.invariant", LLAMA, "--requests=16", "--layers=4"),
        90,
        ("--small",),
        file=True,
    ),
    Part("llama 3B", (*UNROLLED, *LARGE), 110, TINY),
    dataclasses.replace(LLAMA_PART, name="llama again"),
    dataclasses.replace(TORCH_PART, name="torch again"),
)


def run_part(part: Part, small: bool, seconds: float, folder: pathlib.Path) -> dict[str, Any]:
    """Runs a part. Returns its result, or a reason under "failed"; never raises."""
    result_file = folder / f"{part.name}.json"
    command = [sys.executable, "-m", *part.command, *(part.small if small else ())]
    command += [f"--json={result_file}"] if part.file else []
    # Without this XLA keeps a quarter of the memory for others; there are none.
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=min(part.limit, seconds),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {min(part.limit, seconds):.0f} s", "wall": time.monotonic() - began}
    found: dict[str, Any] = {"wall": time.monotonic() - began, "status": done.returncode}
    try:
        text = result_file.read_text("utf-8") if part.file else done.stdout[done.stdout.index("{") :]
        found |= json.loads(text)
    except (OSError, ValueError):
        found["failed"] = f"status {done.returncode}: " + " | ".join(done.stderr.strip().splitlines()[-3:])[-400:]
    return found


def lines(part: Part, found: dict[str, Any]) -> list[str]:
    """The table's lines of a part."""
    head = f"{part.name:13}{found['wall']:6.0f} s  "
    if "failed" in found:
        return [head + f"FAILED: {found['failed']}"]
    if "times" in found:
        rows = [row for row in found["times"] if "ms" in row]
        failed = [f"{row['kernel']} FAILED: {row['failed']}" for row in found["times"] if "failed" in row]
        words = [
            f"{row['kernel']:9}{row['length']:>7} {'packed' if row['packed'] else 'causal'} "
            f"{'forward+backward' if row['backward'] else 'forward':17}{row['ms']:9.3f} ms"
            + (f"{row['tflops']:7.0f} TFLOP/s" if row["tflops"] else "")
            for row in rows
        ]
        return [head + line for line in words + failed]
    if "matrix" in found:
        cells = [cell for row in found["matrix"] for cell in row["kernels"].values()]
        good = sum("failed" not in cell and not cell["wrong"] for cell in cells)
        refused = sum(len(row["refused"]) for row in found["matrix"])
        return [head + f"{good} of {len(cells)} cells right, {refused} refused by name"]
    if "invariance" in found:
        one, several = (found["invariance"][name] for name in ("one program", "several programs"))
        ratios = found["invariance"]["ratio of time"]
        return [
            head + f"other bits than alone in {one['other_bits']} of {one['texts']} texts with one program, in "
            f"{several['other_bits']} with several; {sorted(ratios)[len(ratios) // 2]:.2f} of the time"
        ]
    memory = found.get("peak_bytes") or max(found.get("memory", {"": 0}).values())
    mfu = found.get("mfu")
    words = f"{1e3 * found['seconds']:9.1f} ms a step, {found['tokens_per_second']:10,.0f} tokens/s, "
    words += f"{memory / 2**30:5.1f} GiB, n={len(found['step_seconds'])}, loss {found['losses'][0]:.3f}"
    return [head + words + ("" if mfu is None else f", MFU {100 * mfu:.1f}%")] + [
        " " * 23 + f"kernel for {line}" for line in found.get("kernels", [])
    ]


def main() -> None:
    """Runs the parts while there is time, and prints; ends with status 1 if any failed or was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="a file for all values, written after every part")
    parser.add_argument("--seconds", type=float, default=530, help="of all parts together")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="a part; may be given many times")
    parser.add_argument("--dry_run", action="store_true", help="prints the commands")
    parser.add_argument("--small", action="store_true", help="tiny shapes, on any device")
    options = parser.parse_args()
    ends, results, bad = time.monotonic() + options.seconds, {}, False
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            if options.dry_run:
                print(f"{part.limit:4.0f} s  python -m {' '.join(part.command)}")
                continue
            left = ends - time.monotonic()
            if options.small:  # a machine without an accelerator, and other work on it
                part = dataclasses.replace(part, limit=5 * part.limit)
            elif left < min(40, part.limit / 2):
                print(f"{part.name:13} left out: {max(left, 0):.0f} s are left")
                continue
            left = 5 * options.seconds if options.small else left
            results[part.name] = found = run_part(part, options.small, left, pathlib.Path(folder))
            bad |= "failed" in found or found.get("status", 0) != 0
            print("\n".join(lines(part, found)), flush=True)
            if options.json:
                pathlib.Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    ours, theirs = (results.get(name, {}).get("tokens_per_second") for name in ("llama", "torch"))
    if ours and theirs:
        print(f"tokens per second, Cairn over PyTorch: {ours / theirs:.3f}")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
