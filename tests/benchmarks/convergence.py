"""Loss curves of every parallelism against plain FSDP, on virtual devices: torchtitan's convergence protocol.

    python -m tests.benchmarks.convergence [--steps=50] [--only=NAME ...]

The same seed, the same batches, the same model and optimizer; only the mesh and the sharding table change: one axis or
several on eight devices, four axes at once on sixteen. Prints for
every axis the largest relative difference of its loss from that of plain FSDP over all steps, the first step at which
it is above 1e-4, and the last loss. Exit status 1 if a difference is above the bound.

The bound: sums in another order change a float32 loss by some 1e-7, and training amplifies it step by step. A second
curve of plain FSDP, in which the rows of every batch stand in another order, computes the same numbers in exact
arithmetic: its difference is the rounding alone. Up to each step a parallelism may differ ten times as much as this
curve has, and by 1e-5 in any case; a wrong gradient, a lost token or a dropped micro-batch shows by 1e-3 and more within
a few steps. Experts are chosen, and a choice between two that are nearly alike turns on rounding: from the step on where
one turns, in this curve or in that one, losses differ by 1e-4 to 1e-3.
"""

import argparse
import dataclasses
import itertools
import math
import os
import sys
import time
from typing import Any

from tests.benchmarks.command import run

DEVICES, ROWS, LENGTH, VOCABULARY, LAYERS = 16, 16, 64, 64, 4
FLOOR, FACTOR = 1e-5, 10


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
      mesh: the sizes of the axes that are not 1; their product is the number of devices.
      sharding: changes to the experiment, as --set writes them.
      experts: whether the model has experts; then it is compared with plain FSDP of that model.
      reordered: whether the rows of every batch stand in another order.
    """

    mesh: dict[str, int]
    sets: tuple[str, ...] = ()
    experts: bool = False
    reordered: bool = False


MEGATRON = "sharding.activations.sequence=('tensor',)"
MICRO_BATCHES = "training.gradient_accumulation=4"
CASES = {
    "fsdp": Case({"fsdp": 8}),
    "fsdp, rows reordered": Case({"fsdp": 8}, reordered=True),
    "data": Case({"data": 8}),
    "data, fsdp": Case({"data": 2, "fsdp": 4}),
    "tensor": Case({"fsdp": 2, "tensor": 4}),
    "tensor, sequence split (Megatron)": Case({"fsdp": 2, "tensor": 4}, (MEGATRON,)),
    "context": Case({"fsdp": 2, "context": 4}),
    "context, ring": Case({"fsdp": 2, "context": 4}, ("sharding.activations.key_sequence=('context',)",)),
    "stage": Case({"data": 2, "stage": 4}, (MICRO_BATCHES,)),
    "stage, two chunks": Case({"data": 4, "stage": 2}, (MICRO_BATCHES, "sharding.chunks=2")),
    "data, fsdp, tensor": Case({"data": 2, "fsdp": 2, "tensor": 2}),
    "stage, fsdp, tensor": Case({"data": 1, "stage": 2, "fsdp": 2, "tensor": 2}, (MICRO_BATCHES,)),
    "data, fsdp, context, tensor": Case({"data": 2, "fsdp": 2, "context": 2, "tensor": 2}),
    "stage, fsdp, context, tensor": Case({"stage": 2, "fsdp": 2, "context": 2, "tensor": 2}, (MICRO_BATCHES,)),
    "experts: fsdp": Case({"fsdp": 8}, experts=True),
    "experts: fsdp, rows reordered": Case({"fsdp": 8}, experts=True, reordered=True),
    "experts: expert": Case({"fsdp": 2, "expert": 4}, experts=True),
    "experts: data, expert, tensor": Case({"data": 2, "expert": 2, "tensor": 2}, experts=True),
    "experts: fsdp, expert, context, tensor": Case({"fsdp": 2, "expert": 2, "context": 2, "tensor": 2}, experts=True),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """The losses of a case, and its largest relative difference from plain FSDP over the steps."""

    losses: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def differences(self) -> list[float]:
        """The relative difference at each step."""
        return [abs(loss - right) / right for loss, right in zip(self.losses, self.reference, strict=True)]

    @property
    def first_above(self) -> int | None:
        """The first step, from 1, whose difference is above 1e-4."""
        return next((step for step, value in enumerate(self.differences, 1) if value > 1e-4), None)


def main() -> None:
    """Trains every case and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="updates of every case")
    parser.add_argument("--only", action="append", choices=CASES, help="a row of the table; all by default")
    options = parser.parse_args()
    import jax

    wanted = set(options.only or CASES)
    for name in tuple(wanted):
        wanted |= set(references(name))
    curves: dict[str, tuple[float, ...]] = {}
    print("| axes | largest relative difference | first step above 1e-4 | last loss |\n| --- | --- | --- | --- |")
    failed = []
    for name in (name for name in CASES if name in wanted):
        started = time.perf_counter()
        curves[name] = losses_of(CASES[name], options.steps)
        jax.clear_caches()
        plain, reordered = references(name)
        row = Row(curves[name], curves[plain])
        print(line_of(name, row), flush=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if reordered in curves and (step := first_beyond(row, Row(curves[reordered], curves[plain]))) is not None:
            failed.append(f"{name}: the loss of step {step} differs by {row.differences[step - 1]:.1e}")
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def references(name: str) -> tuple[str, str]:
    """The names of plain FSDP of the same model, and of FSDP with its rows reordered."""
    plain = "experts: fsdp" if CASES[name].experts else "fsdp"
    return plain, f"{plain}, rows reordered"


def first_beyond(row: Row, reordered: Row) -> int | None:
    """The first step, from 1, whose difference rounding does not explain; None if there is none."""
    largest = itertools.accumulate(reordered.differences, max)
    bounds = (max(FLOOR, FACTOR * difference) for difference in largest)
    pairs = enumerate(zip(row.differences, bounds, strict=True), 1)
    return next((step for step, (difference, bound) in pairs if difference > bound), None)


def line_of(name: str, row: Row) -> str:
    """A line of the table."""
    return f"| {name} | {max(row.differences):.1e} | {row.first_above or 'none'} | {row.losses[-1]:.6f} |"


def losses_of(case: Case, steps: int) -> tuple[float, ...]:
    """The loss of every step."""
    import jax

    from train.parallel import feed
    from train.parallel.mesh import make_mesh
    from train.parallel.table import layout_of
    from train.state import StateConfig, init_sharded, state_shardings
    from train.step import compile_train_step

    experiment = experiment_of(case, steps)
    mesh = make_mesh(experiment.mesh, jax.devices()[: math.prod(case.mesh.values())])
    state_config = StateConfig.of(experiment)
    shardings = state_shardings(state_config, mesh, experiment.sharding)
    state = init_sharded(state_config, experiment.training.seed, shardings)
    step = compile_train_step(experiment, mesh)
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    losses = []
    for number in range(steps):
        batch = {name: x[::-1] if case.reordered else x for name, x in batch_of(number).items()}
        state, metrics = step(state, feed.to_devices(batch, rows, ROWS, with_segments=True))
        losses.append(float(metrics["loss"]))
    return tuple(losses)


def experiment_of(case: Case, steps: int) -> Any:
    """The experiment of a case: a model of 4 layers and some 10^5 parameters, float32."""
    from model.attention.grouped_query import GroupedQuery
    from model.config import ModelConfig
    from model.feedforward.mlp import Gated
    from model.options.assignments import override
    from model.options.tree import check
    from train.data.config import Bytes, Data
    from train.experiment import Experiment, Samples, Training
    from train.optimizers.options import AdamW
    from train.parallel.mesh import Mesh
    from train.schedules import Cosine

    experiment = Experiment(
        model=ModelConfig(
            vocab_size=VOCABULARY,
            context_length=LENGTH,
            num_layers=LAYERS,
            width=64,
            mixer=GroupedQuery(num_heads=4, num_kv_heads=4),
            ffn=Gated(width=128),
        ),
        data=Data(path="none", tokenizer=Bytes(), batch_size=ROWS, sequence_length=LENGTH),
        training=Training(num_steps=max(steps, 10)),
        optimizer=AdamW(weight_decay=0.1),
        schedule=Cosine(peak=3e-3, final=3e-4, warmup_steps=5),
        mesh=Mesh(**case.mesh),
        samples=Samples(prompts=(), length=1),
    )
    experts = (
        "model.ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=32), router=SigmoidRouter(), "
        "balance_loss=BalanceLoss(coefficient=0.01))"
    )
    for change in (*case.sets, *((experts,) if case.experts else ())):
        experiment = override(experiment, change)
    check(experiment)
    return experiment


def batch_of(number: int) -> dict[str, Any]:
    """Batch n: rows of packed documents of a language in which each token has four likely successors."""
    import numpy as np

    language = np.random.default_rng(0).integers(0, VOCABULARY, (VOCABULARY, 4))
    draw = np.random.default_rng(1000 + number)
    text = np.empty((ROWS, LENGTH + 1), np.int32)
    text[:, 0] = draw.integers(0, VOCABULARY, ROWS)
    for position in range(LENGTH):
        text[:, position + 1] = language[text[:, position], draw.integers(0, 4, ROWS)]
    starts = draw.random((ROWS, LENGTH)) < 2 / LENGTH
    starts[:, 0] = True
    segment_ids = np.cumsum(starts, axis=1).astype(np.int32)
    index = np.arange(LENGTH)
    positions = index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    weights = np.ones((ROWS, LENGTH), np.float32)
    weights[:, :-1] = segment_ids[:, 1:] == segment_ids[:, :-1]  # the next document is not predicted
    return {
        "tokens": text[:, :-1],
        "targets": text[:, 1:],
        "weights": weights,
        "segment_ids": segment_ids,
        "positions": positions.astype(np.int32),
    }


if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={DEVICES}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    run(main)
