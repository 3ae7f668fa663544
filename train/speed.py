"""The speed of the training step of an experiment, on random tokens: no text, no run folder.

The step is the one that `train/loop.py` runs, compiled by the same function, and it is driven as the loop drives it:
step n + 1 is handed to the devices before the results of step n are waited for.
"""

import collections
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from model.cost import count_parameters
from model.errors import UserError
from model.kernels.selection import recorded_choices
from train.experiment import Experiment
from train.objectives.interface import refuse_preparation
from train.parallel import feed
from train.parallel.mesh import make_mesh
from train.parallel.table import layout_of
from train.run.checks import check_mesh
from train.run.clock import Clock
from train.run.parameter_table import check_memory
from train.run.utilization import Utilization
from train.state import StateConfig, init_sharded, state_shardings
from train.step import compile_train_step
from train.terminal.formatting import format_bytes, format_count, format_duration, format_percent

# The values of a batch's fields for random tokens: each row is one document without padding.
_FIELDS: dict[str, Callable[[np.random.Generator, int, tuple[int, int]], np.ndarray]] = {
    "tokens": lambda draw, vocab_size, shape: draw.integers(0, vocab_size, shape, np.int32),
    "targets": lambda draw, vocab_size, shape: draw.integers(0, vocab_size, shape, np.int32),
    "weights": lambda draw, vocab_size, shape: np.ones(shape, np.float32),
    "text": lambda draw, vocab_size, shape: np.ones(shape, np.int8),
    "segment_ids": lambda draw, vocab_size, shape: np.ones(shape, np.int32),
    "positions": lambda draw, vocab_size, shape: np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
}


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a training step takes.

    Attributes:
      device: the kind of the devices, and how many there are.
      step_seconds: of each measured step, from the end of the one before to its own.
      tokens: in one step, on all devices.
      utilization: the model FLOPs of a token, and the peak of all devices.
      trace_seconds, compile_seconds: before the first step; compilation is short where a compilation cache has it.
      memory: bytes on one device, as the compiler plans them: "arguments" (the state and the batch), "temporaries", and
        on a TPU the "peak" of both. "peak in use" is what the device measured, if it does.
      kernels: the kernels that the step uses, and why not faster ones, a line each.
      losses: of the first and the last step: neither is finite where the numbers of the program are wrong.
    """

    device: str
    devices: int
    parameters: int
    active_parameters: int
    step_seconds: tuple[float, ...]
    tokens: int
    utilization: Utilization
    trace_seconds: float
    compile_seconds: float
    memory: dict[str, int]
    losses: tuple[float, float]
    kernels: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The median of a step."""
        return statistics.median(self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        """On all devices."""
        return self.tokens / self.seconds

    @property
    def flops(self) -> float:
        """The model FLOPs of one step."""
        return self.utilization.flops_per_token * self.tokens

    @property
    def peak(self) -> float | None:
        """The published peak of all devices in FLOP/s for the compute format; None where none is known."""
        return self.utilization.peak

    @property
    def flops_per_second(self) -> float:
        """Of one device."""
        return self.flops / self.seconds / self.devices

    @property
    def mfu(self) -> float | None:
        """See `Utilization.mfu`."""
        return self.utilization.mfu(self.tokens_per_second)

    def quartiles(self) -> tuple[float, float]:
        """Of the steps, in seconds; those of a single step are its own time."""
        if len(self.step_seconds) == 1:
            return self.step_seconds * 2
        first, _, third = statistics.quantiles(self.step_seconds, n=4, method="inclusive")
        return first, third

    def as_json(self) -> dict[str, Any]:
        """All values, for JSON."""
        names = ("seconds", "tokens_per_second", "flops", "peak", "flops_per_second", "mfu")
        fields = dataclasses.asdict(self)
        del fields["utilization"]
        return fields | {name: getattr(self, name) for name in names}

    def lines(self) -> list[str]:
        """The values as lines for the terminal."""
        low, high = self.quartiles()
        spread = f"median; quartiles {1e3 * low:,.1f} and {1e3 * high:,.1f}, n={len(self.step_seconds)}"
        active = f"{format_count(self.active_parameters)} of a token" * (self.active_parameters != self.parameters)
        peak = "no peak is known of this device"
        if self.peak is not None:
            peak = f"of {self.peak / self.devices / 1e12:,.4g} TFLOP/s a device"
        rows = [
            ("devices", f"{self.devices:,}", self.device),
            ("parameters", format_count(self.parameters), active),
            ("step", f"{1e3 * self.seconds:,.1f} ms", spread),
            ("tokens per second", format_count(self.tokens_per_second), f"{self.tokens:,} tokens in a step"),
            ("TFLOP/s per device", f"{self.flops_per_second / 1e12:,.3g}", "the model's own, without recomputation"),
            ("MFU", "-" if self.mfu is None else format_percent(self.mfu), peak),
            (
                "compilation",
                format_duration(self.compile_seconds),
                f"and {format_duration(self.trace_seconds)} of tracing",
            ),
            *((f"memory, {name}", format_bytes(size), "a device") for name, size in self.memory.items()),
            ("loss", f"{self.losses[-1]:.4f}", f"at the first step {self.losses[0]:.4f}; of random tokens"),
        ]
        table = [f"  {name:<20}{value:>12}  {note}".rstrip() for name, value, note in rows]
        return table + [f"  kernel for {line}" for line in self.kernels]


def measure(
    experiment: Experiment, steps: int = 20, warmup: int = 3, on_progress: Callable[[int], None] | None = None
) -> Speed:
    """Compiles the training step, runs it on random tokens, and measures it.

    Args:
      experiment: the resolved, checked experiment; its text is not read.
      steps: how many steps to measure.
      warmup: how many steps to run before them; at least 1.
      on_progress: called with the number of steps that have ended, first with 0.

    Raises:
      UserError: the mesh does not fit, the state takes more memory than there is, or the objective needs a field that
        random tokens do not have.
    """
    refuse_preparation(experiment.objective, "the speed of a step")
    check_mesh(experiment)
    mesh = make_mesh(experiment.mesh)
    check_memory(experiment, mesh)
    config, table, length = StateConfig.of(experiment), experiment.sharding, experiment.data.sequence_length
    batches = [random_batch(experiment, n, mesh) for n in range(2)]
    state = init_sharded(config, experiment.training.seed, state_shardings(config, mesh, table))
    if on_progress is not None:
        on_progress(0)
    began = time.perf_counter()
    with recorded_choices() as chosen_kernels:
        lowered = compile_train_step(experiment, mesh).lower(state, batches[0])
    traced = time.perf_counter()
    step = lowered.compile()
    compiled = time.perf_counter()

    clock, ends, losses = Clock(experiment, mesh), [], []
    dispatched: collections.deque[tuple[Any, Callable[[], float]]] = collections.deque()
    for n in range(warmup + steps + 1):
        if n < warmup + steps:
            state, metrics = step(state, batches[n % 2])
            dispatched.append((metrics["loss"], clock.watch(metrics)))
        if n:
            loss, wait_for_end = dispatched.popleft()
            ends.append(wait_for_end())
            losses.append(float(loss))
            if on_progress is not None:
                on_progress(n)

    device, count = mesh.devices.flat[0], count_parameters(experiment.model)
    tokens = experiment.data.batch_size * length
    return Speed(
        device=device.device_kind,
        devices=mesh.size,
        parameters=count.total,
        active_parameters=count.active,
        step_seconds=tuple(after - before for before, after in zip(ends[warmup - 1 :], ends[warmup:], strict=False)),
        tokens=tokens,
        utilization=Utilization.of(experiment, mesh),
        trace_seconds=traced - began,
        compile_seconds=compiled - traced,
        memory=_memory(step, device),
        losses=(losses[0], losses[-1]),
        kernels=tuple(chosen_kernels),
    )


def random_batch(experiment: Experiment, n: int, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Batch n: the fields that the objective reads, as the loop places them."""
    with_segments = feed.needs_segments(experiment.data, experiment.model)
    names = feed.batch_fields(experiment.objective.fields, experiment.data, experiment.model)
    if unknown := [name for name in names if name not in _FIELDS]:
        raise UserError(
            f"the objective {type(experiment.objective).__name__} reads {', '.join(unknown)}, and random tokens have "
            f"only {', '.join(_FIELDS)}; measure its run instead (the tokens per second of its report)"
        )
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    draw = np.random.default_rng(n)
    rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
    batch = {name: _FIELDS[name](draw, experiment.model.vocab_size, shape) for name in names}
    mine = feed.local_rows(rows, shape[0])
    return feed.to_devices({name: x[mine] for name, x in batch.items()}, rows, shape[0], with_segments)


def _memory(step: jax.stages.Compiled, device: jax.Device) -> dict[str, int]:
    planned = step.memory_analysis()
    names = {"arguments": "argument_size_in_bytes", "temporaries": "temp_size_in_bytes"}
    if device.platform == "tpu":  # the number of other compilers leaves out a part
        names["peak"] = "peak_memory_in_bytes"
    found = {name: int(getattr(planned, field)) for name, field in names.items()}
    used = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {name: size for name, size in (found | {"peak in use": int(used)}).items() if size}
