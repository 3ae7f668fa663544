"""Steps of fine-tuning and of DPO beside steps of pre-training of the same shapes, in turn in one process.

    python -m tests.benchmarks.alignment.step_speed --config=configs/small.py --rounds=20 [--set model.num_layers=4]

Each step reads the same number of tokens: a batch of the config, or half as many pairs. Fine-tuning counts an eighth of
the targets, in spans; the log-probabilities of the reference of DPO are in the batch, as in a run, where they were
computed once before the first step. Prints for each the median time, and the median and quartiles of its tokens/s
over those of pre-training in the same round. Random tokens, no data pipeline, no evaluation and no saves.
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np

from tests.benchmarks.command import answer_help, fail, run
from tests.benchmarks.repeats import quartiles, ratios

answer_help(__name__, __doc__)

ANSWER = 8  # of 8 spans of a row, one is the assistant's


def in_spans(rows: int, length: int) -> np.ndarray:
    """Weights of 1 in every eighth span of a row, float32 (rows, T)."""
    places = np.arange(length) * 4 * ANSWER // length
    return np.broadcast_to((places % ANSWER == ANSWER - 1).astype(np.float32), (rows, length)).copy()


def pairs(batch: dict[str, Any], weights: np.ndarray) -> dict[str, Any]:
    """A batch of pairs: the first half of the rows are chosen, the others rejected."""
    rows = len(weights) // 2
    found: dict[str, Any] = {}
    for text, half in (("chosen_", slice(rows)), ("rejected_", slice(rows, 2 * rows))):
        found |= {f"{text}{name}": batch[name][half] for name in ("tokens", "targets")}
        found[f"{text}weights"] = jax.numpy.asarray(weights[half])
        found[f"{text}reference"] = jax.numpy.full(weights[half].shape, -80.0)
    return found


def main() -> None:
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small.py")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=20)
    flags = parser.parse_args()
    if flags.rounds < 2:
        fail("--rounds is at least 2, for quartiles")
    from train.config_file import from_file
    from train.data.preferences.option import Preferences
    from train.objectives.preference import DPO
    from train.parallel.mesh import make_mesh
    from train.speed import random_batch
    from train.state import StateConfig, init_sharded, state_shardings
    from train.step import compile_train_step

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as commands do
    experiment = from_file(flags.config, flags.set)
    rows, length = experiment.data.batch_size, experiment.data.sequence_length
    if rows % 2:
        fail(f"--set data.batch_size={rows}: must be even, for pairs")
    mesh, config = make_mesh(experiment.mesh), StateConfig.of(experiment)
    batch, weights = random_batch(experiment, 0, mesh), in_spans(rows, length)
    preferences = Preferences(path="pairs.jsonl", batch_size=rows // 2, sequence_length=length)
    of_pairs = dataclasses.replace(experiment, objective=DPO(), data=preferences)
    works = {
        "pre-training": (experiment, batch),
        "fine-tuning": (experiment, batch | {"weights": jax.numpy.asarray(weights)}),
        "DPO": (of_pairs, pairs(batch, weights)),
    }
    state = init_sharded(config, 0, state_shardings(config, mesh, experiment.sharding))
    steps: dict[str, Any] = {}
    for name, (work, inputs) in works.items():
        steps[name] = compile_train_step(work, mesh).lower(state, inputs).compile()
        state, _ = steps[name](state, inputs)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(flags.rounds):
        for name in list(works) if turn % 2 else reversed(works):
            began = time.perf_counter()
            state, metrics = steps[name](state, works[name][1])
            jax.block_until_ready(metrics)
            seconds[name].append(time.perf_counter() - began)
    print(f"{mesh.devices.flat[0].device_kind}, {mesh.size} devices; {rows * length:,} tokens a step")
    for name, own in seconds.items():
        low, middle, high = quartiles(ratios(seconds["pre-training"], own), "exclusive")
        print(f"{name}: {1e3 * statistics.median(own):.1f} ms; {middle:.3f} ({low:.3f} to {high:.3f}, n={len(own)})")


if __name__ == "__main__":
    run(main)
