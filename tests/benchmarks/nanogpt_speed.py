"""Cairn's training step against a PyTorch eager loop of the same shapes, in turn in one run.

    pip install -e '.[benchmark]'
    python -m tests.benchmarks.nanogpt_speed [--size=small|large] [--rounds=20] [--steps=10] [--set path=value ...]
    python -m tests.benchmarks.nanogpt_speed --size=gpu [--compile]     # bfloat16 with dropout, both on a GPU

The PyTorch loop (references/torch_reference.py) runs in a process of its own, which sleeps while it is not its turn.
Both sides count the whole iteration: the batch, the forward and backward pass, clipping, AdamW, fetching the loss.
"""

import argparse
import json
import pathlib
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.benchmarks.command import ROOT, require_torch, run
from tests.benchmarks.repeats import extremes, ratios

# The config of a size, and what is changed in it.
SIZES = {
    "small": ("shakespeare_char", []),
    "gpu": ("shakespeare_char_gpu", []),
    "large": (
        "shakespeare_char",
        [
            "model.num_layers=6",
            "model.width=384",
            "model.context_length=256",
            "model.mixer.num_heads=6",
            "model.ffn.width=1536",
            "data.sequence_length=256",
            "data.batch_size=16",
        ],
    ),
}


class Ours:
    """Cairn's loop: the pipeline, the jitted step, the metrics of the step before."""

    def __init__(self, size: str, overrides: list[str], folder: pathlib.Path) -> None:
        import jax

        from launch.command.cli import prepare_jax

        prepare_jax()
        from train.config_file import from_file
        from train.data.batches.pipeline import Batches
        from train.data.prepare.prepare import prepare
        from train.data.shards.dataset import open_dataset
        from train.parallel import feed
        from train.parallel.mesh import make_mesh
        from train.parallel.table import layout_of
        from train.state import StateConfig, init_sharded, state_shardings
        from train.step import compile_train_step

        text = folder / "text.txt"
        alphabet = (string.ascii_letters + string.digits + " \n.")[:65]
        text.write_text("".join(random.Random(0).choices(alphabet, k=1_100_000)))
        config, changes = SIZES[size]
        experiment = from_file(str(ROOT / "configs" / f"{config}.py"), [f"data.path={text}", *changes, *overrides])
        mesh = make_mesh(experiment.mesh)
        rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
        state_config = StateConfig.of(experiment)
        self.state = init_sharded(state_config, 0, state_shardings(state_config, mesh, experiment.sharding))
        self.step = compile_train_step(experiment, mesh)
        batches = Batches(open_dataset(prepare(experiment.data, folder / "data")), experiment.data)
        self.batches = batches.iterator(0)
        self.to_devices = lambda b: feed.to_devices(b, rows, experiment.data.batch_size, with_segments=False)
        self.get = jax.device_get
        self.device = mesh.devices.flat[0].device_kind
        self.pending: Any = None

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` iterations."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            self.state, scalars = self.step(self.state, self.to_devices(next(self.batches)))
            if self.pending is not None:
                self.get(self.pending)
            self.pending = scalars
            times.append(1e3 * (time.perf_counter() - began))
        self.get(self.pending)
        self.pending = None
        return times


class Torch:
    """The PyTorch loop, in a process that reads how many steps to run and writes how long each took."""

    def __init__(self, size: str, compiled: bool) -> None:
        options = ["--device=cuda", "--fused"] if size == "gpu" else []
        options += ["--compile"] if compiled else []
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.references.torch_reference",
                f"--size={size}",
                "--serve",
                *options,
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.facts = json.loads(self.process.stdout.readline())

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` iterations."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["ms"]


def main() -> None:
    """Runs the sides in turn and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--no_torch", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model of the PyTorch side")
    flags = parser.parse_args()
    if not flags.no_torch:
        require_torch()
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(flags.size, flags.set, pathlib.Path(folder))
        sides: dict[str, Any] = {"cairn": ours} | (
            {} if flags.no_torch else {"torch": Torch(flags.size, flags.compile)}
        )
        rounds: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values():
            side.run(5)
        for _ in range(flags.rounds):
            for name, side in sides.items():
                # Threads of the side before may spin for a while; then the first iterations find cold caches.
                time.sleep(0.5)
                rounds[name].append(statistics.median(side.run(flags.steps + 2)[2:]))
    print(
        f"size {flags.size}, on {ours.device}, {flags.rounds} rounds of {flags.steps} steps, ms per step, median of a round"
    )
    print(f"{'':8}{'median':>9} {'least':>9} {'most':>9}")
    for name, values in rounds.items():
        least, median, most = extremes(values)
        print(f"{name:8}{median:9.1f} {least:9.1f} {most:9.1f}")
    if "torch" in rounds:
        least, median, most = extremes(ratios(rounds["cairn"], rounds["torch"]))
        print(f"{'ratio':8}{median:9.3f} {least:9.3f} {most:9.3f}")


if __name__ == "__main__":
    run(main)
