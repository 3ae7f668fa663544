"""A plan in words: memory, operations, transfers, step time and cost of a training job, and their assumptions."""

import dataclasses

from model.errors import UserError
from train.parallel.planner.chips import cluster_of
from train.parallel.planner.job import Job, check_job
from train.parallel.planner.loads import loads_of
from train.parallel.planner.memory import memory_of
from train.parallel.planner.step_time import time_of
from train.terminal.formatting import format_bytes, format_count, format_duration

GIB = 2**30
MOST_TIMES_THE_CHIPS = 64  # the largest cluster that is proposed for a job that does not fit
ASSUMPTIONS = (
    "memory is the sum of the arrays that must live in the backward pass of a layer; a compiler may need more or less "
    "(peaks of 11 compiled programs: up to 17% off)",
    "step time is an estimate from counted operations and bytes and 14 constants, fitted to 111 published speeds; for "
    "models without a part in the fit it is 9% off in the median, and for one of ten by more than 25%",
    "attention and experts run in the fastest kernels known for the chip (splash, cuDNN, grouped products); loops in "
    "XLA are slower",
    "rates are those of data sheets; float32 products count as bf16; the mesh is split as the default sharding table "
    "does; experts have equal loads; reading data, evaluation, checkpoints and failures take no time",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Lines for a person, and whether the job fits into the memory of its chips."""

    lines: tuple[str, ...]
    fits: bool


def plan_of(job: Job, steps: int) -> Plan:
    """Describes a job of `steps` steps."""
    fits = memory_of(job).total <= job.cluster.chip.hbm
    parts = (_heading(job), _memory(job), _operations(job), _transfers(job), _time(job, steps))
    lines = [line for part in parts for line in (*part, "")]
    return Plan(lines=(*lines, "assumptions", *(f"  {line}" for line in ASSUMPTIONS)), fits=fits)


def _heading(job: Job) -> list[str]:
    work = job.work
    rows = f"{job.batch:,} x {work.length:,} tokens a step"
    parts = f" in {job.microbatches} micro-batches" if job.microbatches > 1 else ""
    return [
        f"{format_count(work.parameters)} parameters, {work.num_layers} layers, {rows}{parts}",
        f"{job.cluster}: {job.cluster.chips:,} chips, mesh {job.ways} (in chips)",
    ]


def _memory(job: Job) -> list[str]:
    memory, limit = memory_of(job), job.cluster.chip.hbm
    lines = ["memory a chip"]
    lines += [f"  {name:28} {_size(value):>11}" for name, value in dataclasses.asdict(memory).items()]
    lines.append(f"  {'at the fullest moment':28} {_size(memory.total):>11} of {_size(limit)}")
    if memory.total <= limit:
        return [*lines, f"  fits: {_size(limit - memory.total)} are left"]
    return [*lines, f"  does not fit: {_size(memory.total - limit)} too much; {nearest_fit(job)}"]


def _size(value: float) -> str:
    """A number of bytes in GiB, or in MiB below 1 GiB."""
    return f"{value / GIB:.2f} GiB" if value >= GIB else f"{value / 2**20:.2f} MiB"


def nearest_fit(job: Job) -> str:
    """Returns the smallest change found with which a job fits."""
    rows = job.batch // job.ways.rows
    parts = [count for count in range(job.microbatches, rows + 1) if rows % count == 0]
    for kept, remat in ((job.kept, ""), (frozenset(), "model.remat=full")):
        for count in parts:
            accumulation = "" if count == job.microbatches else f"training.gradient_accumulation={count}"
            changed = dataclasses.replace(job, kept=kept, microbatches=count)
            if memory_of(changed).total <= job.cluster.chip.hbm:
                given = [f"--set {setting}" for setting in (remat, accumulation) if setting]
                return f"it fits with {' '.join(given)}"
    times = 2
    while times <= MOST_TIMES_THE_CHIPS:
        larger = _on_more_chips(job, times)
        if larger is not None and memory_of(larger).total <= job.cluster.chip.hbm:
            mesh = dataclasses.replace(larger.ways, fsdp=larger.ways.fsdp * job.cluster.chip.devices)
            settings = ["model.remat=full", f"data.batch_size={larger.batch}"]
            if larger.microbatches > 1:
                settings.append(f"training.gradient_accumulation={larger.microbatches}")
            flags = " ".join(f"--set {setting}" for setting in settings)
            return f"it fits on {larger.cluster} with --mesh={mesh} {flags}"
        times *= 2
    return (
        f"it does not fit on {MOST_TIMES_THE_CHIPS} times the chips either: split layers with the axis tensor or stage"
    )


def _on_more_chips(job: Job, times: int) -> Job | None:
    """The job with one sequence at a time on more chips of the same kind, split further by FSDP."""
    ways = dataclasses.replace(job.ways, fsdp=job.ways.fsdp * times)
    try:
        cluster = cluster_of(job.cluster.chip.name, job.cluster.chips * times, job.cluster.slices)
        batch = job.batch * times
        larger = dataclasses.replace(
            job, cluster=cluster, ways=ways, batch=batch, kept=frozenset(), microbatches=max(1, batch // ways.rows)
        )
        check_job(larger)
    except UserError:
        return None
    return larger


def _operations(job: Job) -> list[str]:
    loads = loads_of(job)
    attention = sum(load.forward + load.backward for load in loads.attention)
    done = (sum(load.flops for load in loads.products) + attention) * job.cluster.chips
    model = loads.model_flops * job.cluster.chips
    return [
        "operations a step",
        f"  of the model                 {model:.4g}  ({model / job.tokens:.4g} a token)",
        f"  with recomputation, padding  {done:.4g}",
    ]


def _transfers(job: Job) -> list[str]:
    lines = ["bytes that a chip receives in a step"]
    for transfer in loads_of(job).transfers:
        moved = f"{transfer.axis:8} {transfer.purpose:42} {format_bytes(transfer.received):>9}"
        lines.append(f"  {moved}  {transfer.network:8} {1e3 * transfer.seconds:,.1f} ms at the data sheet's rate")
    return lines if len(lines) > 1 else ["no transfers between chips"]


def _time(job: Job, steps: int) -> list[str]:
    loads, chip = loads_of(job), job.cluster.chip
    found = time_of(loads, chip, job.cluster.slices)
    peak = chip.rate(job.number_format)
    speed = job.tokens / found.total
    hours = found.total * steps / 3600
    return [
        f"step time {format_duration(found.total) if found.total >= 1 else f'{1e3 * found.total:.1f} ms'}",
        f"  {found.describe()}",
        f"  MFU {100 * loads.model_flops / peak / found.total:.1f}% of {peak / 1e12:,.0f} TFLOP/s "
        f"(operations of the model, causal attention counted once)",
        f"  {speed:,.0f} tokens/s, {speed / job.cluster.chips:,.1f} a chip",
        f"  {steps:,} steps, {format_count(steps * job.tokens)} tokens: {format_duration(hours * 3600)}, "
        f"{hours * job.cluster.chips:,.1f} chip-hours",
    ]
