"""A plan in words: memory, operations, transfers, step time and cost of a training job, and their assumptions."""

import dataclasses
import io
from collections.abc import Sequence

from model.errors import UserError
from train.experiment import Experiment
from train.parallel.planner.chips import cluster_of
from train.parallel.planner.compiled import CompiledStep
from train.parallel.planner.job import Job, check_job
from train.parallel.planner.loads import loads_of
from train.parallel.planner.memory import memory_of
from train.parallel.planner.search import Compiled, Search
from train.parallel.planner.step_time import time_of
from train.terminal.formatting import format_bytes, format_count, format_duration

GIB = 2**30
MOST_TIMES_THE_CHIPS = 64  # the largest cluster that is proposed for a job that does not fit
ASSUMPTIONS = (
    "memory is the sum of the arrays that must live in the backward pass of a layer; a compiler may need more or less "
    "(peaks of 11 compiled programs: up to 17% off)",
    "step time is an estimate from counted operations and bytes and 14 constants, fitted to 111 published speeds; for "
    "models without a part in the fit it is 9% off in the median, and for one of ten by more than 25%",
    "attention and experts run in the fastest kernels known for the chip (splash, cuDNN, grouped products); with a "
    "context axis on GPUs, or keys in a ring, attention runs in loops of XLA, whose scores move through memory; what "
    "those kernels refuse takes longer than planned: dropout of attention weights, and on GPUs also packed documents, "
    "soft-caps, sinks, biases and values of another width than keys (launch.train prints which kernel runs, and why)",
    "small models take longer than planned, because the time to start an operation is not counted (10.7M parameters on "
    "one H100: 4.8 ms planned, 8.9 ms measured)",
    "rates are those of data sheets; float32 products count as bf16; the mesh is split as the default sharding table "
    "does; experts have equal loads; reading data, evaluation, checkpoints and failures take no time",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Lines for a person, and whether the job fits into the memory of its chips."""

    lines: tuple[str, ...]
    fits: bool


def plan_of(job: Job, steps: int, compiled: CompiledStep | str | None = None) -> Plan:
    """Describes a job of `steps` steps.

    A compiled step, or the compiler's reason why there is none, decides whether it fits; or else the counted memory.
    """
    chip = job.cluster.chip
    if isinstance(compiled, CompiledStep):
        fits, of_compiler = compiled.peak <= chip.hbm / chip.devices, [_compiled(compiled, job)]
    elif compiled is None:
        fits, of_compiler = memory_of(job).total <= chip.hbm, []
    else:
        fits, of_compiler = False, [[f"compiled for {job.cluster} by libtpu: does not fit", f"  {compiled}"]]
    parts = (_heading(job), _memory(job), *of_compiler, _operations(job), _transfers(job), _time(job, steps))
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
    lines += [f"  {name:28} {format_size(value):>11}" for name, value in dataclasses.asdict(memory).items()]
    lines.append(f"  {'at the fullest moment':28} {format_size(memory.total):>11} of {format_size(limit)}")
    if memory.total <= limit:
        return [*lines, f"  fits: {format_size(limit - memory.total)} are left"]
    return [*lines, f"  does not fit: {format_size(memory.total - limit)} too much; {nearest_fit(job)}"]


def _compiled(step: CompiledStep, job: Job) -> list[str]:
    chip = job.cluster.chip
    limit, device = chip.hbm / chip.devices, "a chip" if chip.devices == 1 else f"a device ({chip.devices} a chip)"
    room = limit - step.peak
    verdict = f"fits: {format_size(room)} are left" if room >= 0 else f"does not fit: {format_size(-room)} too much"
    took = f"{format_duration(step.trace_seconds)} of tracing, {format_duration(step.compile_seconds)} of compilation"
    lines = [f"compiled for {job.cluster} by libtpu, {device}  ({took}{', kept from an earlier call' * step.cached})"]
    lines += [f"  {name:28} {format_size(getattr(step, name)):>11}" for name in ("arguments", "temporaries")]
    lines += [f"  {'at the fullest moment':28} {format_size(step.peak):>11} of {format_size(limit)}", f"  {verdict}"]
    for found in step.collectives:
        axes = ", ".join(found.axes) or "no axis"
        lines.append(f"  {found.kind:20} {axes:14} {found.runs:>7,} a step {format_bytes(found.received):>9} received")
    return lines


def format_size(value: float) -> str:
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
            settings = ["model.remat=full"]
            if larger.batch != job.batch:
                settings.append(f"data.batch_size={larger.batch}")
            if larger.microbatches != job.microbatches:
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
        batch = job.batch if job.batch % ways.rows == 0 else job.batch * times
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


ROWS = 10  # of the table of a search


def other_meshes(experiment: Experiment, found: Search, job: Job, compiled: CompiledStep | None) -> list[str]:
    """Returns lines about the fastest plan on the same chips that fits; none if no other is likely to fit.

    Where the compiler needs more than was counted, the others are taken to need as many times their count.
    """
    limit = job.cluster.chip.hbm
    times = 1.0 if compiled is None else max(1.0, compiled.peak * job.cluster.chip.devices / memory_of(job).total)
    for one in found.fitting:
        if one.memory * times <= limit:
            flags = " ".join(one.settings(experiment))
            return [
                "",
                f"on the same chips this fits, by the count, in {format_size(one.memory * times)}:",
                f"  {flags}",
            ]
    return []


def search_plan(experiment: Experiment, found: Search, compiled: Sequence[Compiled]) -> Plan:
    """Describes a search: the best candidates in a table, and the flags that make the first of them."""
    if found.smallest is None:
        rows = experiment.data.batch_size
        return Plan(
            lines=(
                f"no mesh of these chips divides the model and data.batch_size={rows}; try other batches, as in "
                f"--batches={rows},{2 * rows},{4 * rows}, or --set training.gradient_accumulation=1",
            ),
            fits=False,
        )
    cluster = found.smallest.job.cluster
    limit = format_size(cluster.chip.hbm)
    heading = f"{cluster}: {found.tried:,} candidates, {len(found.fitting):,} fit into {limit} a chip"
    if not found.fitting:
        flags = " ".join(found.smallest.settings(experiment))
        lines = [heading, f"the smallest takes {format_size(found.smallest.memory)} of {limit}: {flags}"]
        return Plan(lines=(*lines, nearest_fit(found.smallest.job)), fits=False)
    known = {id(each.candidate) for each in compiled}
    ranked = [*compiled, *(Compiled(candidate=each) for each in found.fitting if id(each) not in known)][:ROWS]
    best = ranked[0]
    lines = [heading, *_table(ranked)]
    if compiled and not best.fits:
        lines += ["none of the compiled candidates fits; the compiler needs more than the count of arrays", ""]
    lines += [
        "the best, as flags for launch.plan and launch.train:",
        f"  {' '.join(best.candidate.settings(experiment))}",
    ]
    return Plan(lines=tuple(lines), fits=best.fits)


def _table(rows: Sequence[Compiled]) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("mesh", "rematerialisation"):
        table.add_column(name, no_wrap=True)
    for name in ("batch", "parts", "GiB counted", "GiB compiled", "step", "tokens/s/chip", "MFU"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows, 1):
        one = row.candidate
        mesh = ",".join(f"{axis}={size}" for axis, size in one.mesh.items() if size > 1) or "data=1"
        mesh += " (stream split)" if one.job.stream_split else ""
        remat = one.remat if isinstance(one.remat, str) else "saves " + ", ".join(one.remat.taps)
        compiled = "-" if row.step is None else f"{row.step.peak / GIB:.2f}"
        compiled = ("no program" if row.error else compiled) + ("" if row.fits else ": does not fit")
        step = format_duration(one.seconds) if one.seconds >= 10 else f"{1e3 * one.seconds:,.0f} ms"
        cells = (f"{one.job.batch:,}", f"{one.job.microbatches:,}", f"{one.memory / GIB:.2f}", compiled, step)
        table.add_row(str(number), mesh, remat, *cells, f"{one.speed:,.0f}", f"{100 * one.mfu:.1f}%")
    file = io.StringIO()
    Console(file=file, width=160, highlight=False).print(table)
    return [line.rstrip() for line in file.getvalue().splitlines()]
