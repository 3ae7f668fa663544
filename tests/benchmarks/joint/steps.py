"""The step of K runs in one program beside K steps of one run, in turn in one process.

    python -m tests.benchmarks.joint.steps --config=configs/small.py --counts=2,4,10 --rounds=20

Prints for each K the median seconds of both over the rounds, the median of the ratios of a round, their quartiles, the
seconds to compile, and the bytes that a device needs. For an accelerator with ten seeds: --counts=10. Random tokens, no
evaluation and no saves.
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

import jax

from tests.benchmarks.command import run
from tests.benchmarks.repeats import quartiles, ratios, timed
from train.config_file import from_file
from train.joint.programs import JointPrograms
from train.parallel.mesh import make_mesh
from train.speed import random_batch
from train.state import StateConfig, init_sharded, state_shardings
from train.step import compile_train_step

KEY = ("step", False, ())


def seconds_of(action: Any) -> float:
    """The seconds until the results of an action are ready."""
    return timed(lambda: jax.block_until_ready(action())).seconds


def main() -> None:
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small.py")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--counts", default="2,4,10")
    parser.add_argument("--rounds", type=int, default=10)
    flags = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as commands do
    experiment = from_file(flags.config, flags.set)
    mesh, config = make_mesh(experiment.mesh), StateConfig.of(experiment)
    shardings = state_shardings(config, mesh, experiment.sharding)
    batch = random_batch(experiment, 0, mesh)
    state = init_sharded(config, 0, shardings)
    began = time.perf_counter()
    step = compile_train_step(experiment, mesh).lower(state, batch).compile()
    print(
        f"{mesh.devices.flat[0].device_kind}, {mesh.size} devices; one run: compiled in {time.perf_counter() - began:.1f} s"
    )
    state, _ = step(state, batch)
    for count in map(int, flags.counts.split(",")):
        seeds = [
            dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, seed=seed))
            for seed in range(count)
        ]
        joint = JointPrograms(seeds)
        for seed in range(count):
            joint.put(seed, init_sharded(config, seed, shardings))
        batches = {seed: random_batch(experiment, seed, mesh) for seed in range(count)}
        began = time.perf_counter()
        planned = joint.compile_step(KEY, None, batch).memory_analysis()
        compiled = time.perf_counter() - began
        seconds_of(lambda joint=joint, batches=batches: joint.step(KEY, None, batches))
        alone, together = [], []
        for _ in range(flags.rounds):
            total = 0.0
            for index in range(count):
                began = time.perf_counter()
                state, metrics = step(state, batches[index])
                jax.block_until_ready(metrics)
                total += time.perf_counter() - began
            alone.append(total)
            together.append(seconds_of(lambda joint=joint, batches=batches: joint.step(KEY, None, batches)))
        low, middle, high = quartiles(ratios(alone, together), "exclusive")
        print(
            f"K={count}: {count} steps alone {statistics.median(alone):.4f} s, one joint step "
            f"{statistics.median(together):.4f} s; {middle:.2f} times as fast ({low:.2f} to {high:.2f}, n={len(alone)}); "
            f"compiled in {compiled:.1f} s; {planned.argument_size_in_bytes + planned.temp_size_in_bytes:,} bytes",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
