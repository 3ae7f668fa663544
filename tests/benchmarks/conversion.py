"""Reading and writing published weights, beside `cp` and a cast of the same files on the same disk.

    python -m tests.benchmarks.conversion [--folder=/tmp] [--layers=12] [--rounds=3]

Makes a random LLaMA of bfloat16 tensors in four files (width 2,048, vocabulary 32,000; 12 layers are 1.5 GB, and
`--width=4096 --layers=32` a 7B) in a new folder below `--folder`, and removes it afterwards. Each round copies the
files with `cp` and waits until they are on the disk, casts every tensor to float32, reads the files into a run folder,
and writes the run back, each in a process of its own, and each with the files in the system's cache. Prints for each the median, the least and the most seconds, the
rate in bytes of the model, the processor time, and the peak of resident memory beyond the model and beyond that of a
process that has only imported what it needs. Ratios are those of single rounds.

The rows of parts leave out the checkpoint of the run folder, which is compressed and checked when it is written.
*cp + cast* is what reading and writing are compared with: each is to take at most twice that.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.command import ROOT, path, run
from tests.benchmarks.repeats import extremes, ratios

SHARDS, HEAD_DIM, VOCABULARY = 4, 128, 32_000

PARTS = {"read": "files to arrays", "write": "arrays to files"}  # without the checkpoint

MEASURE = """
import json, pathlib, sys, time
def peak():
    # Not getrusage: a process begins there with the peak of the one that started it.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
def measured(work, part=None):
    # The numbers of some work, and of a function of a module that it calls.
    inside = {}
    if part is not None:
        module, name = part
        plain = getattr(module, name)
        def timed(*arguments, **named):
            cpu, began = time.process_time(), time.perf_counter()
            result = plain(*arguments, **named)
            inside.update(seconds=time.perf_counter() - began, cpu=time.process_time() - cpu, peak=peak(), base=before)
            return result
        setattr(module, name, timed)
    before, cpu, began = peak(), time.process_time(), time.perf_counter()
    work()
    whole = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "base": before, "peak": peak()}
    print(json.dumps([whole, inside]))
source, run, back = map(pathlib.Path, sys.argv[1:])
"""
CAST = (
    MEASURE
    + """
import numpy as np
from train.conversion.folder import HuggingFaceFolder
folder = HuggingFaceFolder(source)
arrays = [folder.read(stored).copy() for stored in folder.tensors.values()]
def cast():
    for x in arrays:
        x.astype(np.float32)
measured(cast)
"""
)
START = (
    MEASURE
    + """
from launch.command.cli import prepare_jax
prepare_jax(keep_memory=False)
"""
)
READ = (
    START
    + """
from train.conversion import reading
measured(lambda: reading.read_published(source, run), (reading, "read_params"))
"""
)
WRITE = (
    START
    + """
from train.conversion import writing
measured(lambda: writing.write_published(run, back), (writing, "_write"))
"""
)


def make_folder(folder: pathlib.Path, width: int, layers: int) -> int:
    """Writes the model; returns the bytes of its tensors."""
    import ml_dtypes
    import numpy as np

    from model.families.architectures import llama
    from train.conversion.folder import INDEX, make_header, write_tensors

    heads, ffn = width // HEAD_DIM, width * 11 // 4 // 128 * 128
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    tensors = [(name, "BF16", t.shape) for name, t in llama.FAMILY.tensors(llama.FAMILY.model_config(values)).items()]
    tensors = [tensor for tensor in tensors if tensor[0] != "lm_head.weight"] + [
        ("lm_head.weight", "BF16", (VOCABULARY, width))
    ]
    names = [f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors" for i in range(SHARDS)]
    total = sum(2 * int(np.prod(shape)) for _, _, shape in tensors)
    files: list[list[tuple[str, str, tuple[int, ...]]]] = [[] for _ in names]
    done = 0
    for tensor in tensors:
        files[min(SHARDS - 1, done * SHARDS // total)].append(tensor)
        done += 2 * int(np.prod(tensor[2]))
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 0.02, 1 << 22).astype(
        ml_dtypes.bfloat16
    )  # drawn once, and begun at another number each time

    def tensor_values(stored: object) -> np.ndarray:
        size = int(np.prod(stored.shape))  # type: ignore[attr-defined]
        start = int(draw.integers(len(noise)))
        return np.resize(np.roll(noise, start), size).reshape(stored.shape)  # type: ignore[attr-defined]

    for name, listed in zip(names, files, strict=True):
        for _ in write_tensors(folder, make_header(name, listed), tensor_values):
            pass
    weight_map = {tensor[0]: name for name, listed in zip(names, files, strict=True) for tensor in listed}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return total


def in_a_process(program: str, *paths: pathlib.Path) -> list[dict[str, float]]:
    """The numbers that a program prints in its last line: of all its work, and of a part."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    numbers: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def cache_files(folder: pathlib.Path) -> None:
    """Reads the files, so that the system has them in its cache: a conversion takes them out of it."""
    subprocess.run(["cat", *map(str, folder.iterdir())], stdout=subprocess.DEVNULL, check=True)


def copy_files(source: pathlib.Path, target: pathlib.Path) -> dict[str, float]:
    """Copies the folder with cp, and waits until it is on the disk."""
    began, before = time.perf_counter(), os.times()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", *map(str, target.iterdir())], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - began, "cpu": cpu}


def main() -> None:
    """Reads the flags and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        here = pathlib.Path(temporary)
        size = make_folder(here / "published", given.width, given.layers)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ("cp", "cast")}
        for _ in range(given.rounds):
            paths = here / "published", here / "run", here / "back"
            cache_files(here / "published")
            rounds["cp"].append(copy_files(here / "published", here / "copied"))
            shutil.rmtree(here / "copied")
            rounds["cast"].append(in_a_process(CAST, *paths)[0])
            for name, program in (("read", READ), ("write", WRITE)):
                for kind, numbers in zip((name, f"{name}: {PARTS[name]}"), in_a_process(program, *paths), strict=True):
                    rounds.setdefault(kind, []).append(numbers)
            for name in ("run", "back"):
                shutil.rmtree(here / name)
    print(f"{size / 1e9:.2f} GB in {SHARDS} files, {given.rounds} rounds")
    print("| | median s [least, most] | GB/s | processor s | of cp + cast | peak MB beyond the model | of it imports |")
    print("|---|---|---|---|---|---|---|")
    yardsticks = [cp["seconds"] + cast["seconds"] for cp, cast in zip(rounds["cp"], rounds["cast"], strict=True)]
    for name, results in rounds.items():
        seconds, cpu = [one["seconds"] for one in results], statistics.median(one["cpu"] for one in results)
        spread = extremes(seconds)
        cells = [f"{spread:.1f}", f"{size / spread.middle / 1e9:.2f}", f"{cpu:.1f}"]
        if name not in ("cp", "cast"):
            peak, base = (max(one[key] for one in results) for key in ("peak", "base"))
            cells += [f"{extremes(ratios(seconds, yardsticks)):.2f}", f"{(peak - size) / 1e6:.0f}", f"{base / 1e6:.0f}"]
        print(f"| {name} | {' | '.join([*cells, *['-'] * (6 - len(cells))])} |")


if __name__ == "__main__":
    run(main)
