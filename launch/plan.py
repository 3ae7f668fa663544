"""Plans a training run for a cluster that need not be here: whether it fits, its speed, its cost.

    python -m launch.plan --config=configs/llama2_13b.py --topology=v5p:4x4x4
    python -m launch.plan --config=configs/llama2_13b.py --topology=v5e:16x16 --mesh=fsdp=64,tensor=4
    python -m launch.plan --config=configs/llama2_13b.py --topology=h100:8x8
    python -m launch.plan --config=configs/llama2_13b.py --topology=v5p:4x4x4 --compile
    python -m launch.plan --config=configs/llama2_13b.py --topology=v5p:4x4x4 --search --compile
    python -m launch.plan --config=configs/llama2_13b.py --topology=v5e:2x4 --serve --rows=16 --context=4096
    python -m launch.plan --model=llama-3.1-8b --topology=h100:1x1 --serve --rows=64 --context=8192 --json

Prints the memory of a chip, operations, transfers, step time, MFU, tokens a second, days and chip-hours. All of it is
arithmetic from the config and from data sheets: nothing is compiled, and no accelerator is needed. A topology is a chip
and a shape: a torus of a TPU slice (--slices for several), or nodes x GPUs of a node. Without --mesh the config's mesh
is taken if it fits the cluster, and otherwise FSDP over all of it.

--compile also compiles the step for these TPUs, which need not be here (libtpu, extra `tpu`): it adds the peak of
memory and the collectives of the compiled program, and this peak decides whether the plan fits. A 13B takes about half
a minute, because the compiler is stopped before it makes machine code; the same plan again takes seconds, from a folder
beside that of compiled programs.

--search ranks meshes, rematerialisation, micro-batches and layouts of the stream by tokens a second, and prints the
flags that make the best one; --batches gives values of data.batch_size to try, too. With --compile the best few are
compiled.

--serve plans inference instead: the weights of a chip in four formats, the bytes of the caches, the rows and the
longest context that fit, and the bounds by memory, links and operations on decoding and on reading prompts. The model
is that of --config, of --run (a run folder or a Hugging Face folder), or the published --model. With --mesh arrays are
split by the sharding table, without it evenly. --json prints the numbers.

Exit status: 0 if the plan fits, 1 if it does not, 2 for a mistake in the input.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli, streams
from model.errors import UserError

if TYPE_CHECKING:
    from model.config import ModelConfig
    from train.experiment import Experiment
    from train.parallel.planner.chips import Cluster
    from train.parallel.table import Sharding

CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
TOPOLOGY = flags.DEFINE_string("topology", None, "The chips, such as v5p:4x4x4 (a torus) or h100:8x8 (nodes x GPUs).")
SLICES = flags.DEFINE_integer("slices", 1, "TPU slices of that topology; the axis data spans them.", lower_bound=1)
MESH = flags.DEFINE_string(
    "mesh",
    None,
    "How the cluster's devices are laid out, such as fsdp=64 or fsdp=16,tensor=4; data takes what the others leave. "
    "When not given: the config's if it fits, or else fsdp over a slice.",
)
COMPILE = flags.DEFINE_bool("compile", False, "Compiles the step for these TPUs, which need not be here.")
SEARCH = flags.DEFINE_bool(
    "search", False, "Ranks meshes, rematerialisation and micro-batches instead of planning one."
)
BATCHES = flags.DEFINE_list("batches", [], "Values of data.batch_size that --search tries; the config's if not given.")
SERVE = flags.DEFINE_bool("serve", False, "Plans inference instead of training.")
flags.DEFINE_alias("serve_check", "serve")
MODEL = flags.DEFINE_string("model", None, "With --serve: a published model, such as llama-3.1-8b, as bfloat16.")
RUN = cli.define_path("run", None, "With --serve: the model of a run folder or of a Hugging Face folder.")
ROWS = flags.DEFINE_integer("rows", 1, "Rows that --serve serves at a time.", lower_bound=1)
flags.DEFINE_alias("batch", "rows")
CONTEXT = flags.DEFINE_integer("context", None, "Tokens of a row with --serve; the model's context if not given.")
JSON = flags.DEFINE_bool("json", False, "With --serve: prints one JSON object instead of tables.")

EXIT_DOES_NOT_FIT = 1
NUM_COMPILED = 3  # programs that --search --compile wants to see fit


def main(argv: list[str]) -> int:
    """Reads the flags and prints the plan."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --topology=v5p:4x4x4")
    if SERVE.value:
        return _serve()
    for flag in (MODEL, RUN, JSON, CONTEXT):
        if flag.value:
            raise UserError(f"--{flag.name} is for --serve; for a training step give --config, and no --{flag.name}")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    cluster = _cluster()
    if SEARCH.value and MESH.value is not None:
        raise UserError("--search chooses the mesh of a training step: give it without --mesh and --serve")
    if BATCHES.value and not SEARCH.value:
        raise UserError("--batches are for --search; for one plan give --set data.batch_size=64")
    from train.parallel.planner.compiled import check_cluster, prepare_environment

    if COMPILE.value:
        check_cluster(cluster)
        prepare_environment()
    experiment = cli.experiment_from(CONFIG.value, SET.value, cli.mesh_from_flag(MESH))
    return _search(experiment, cluster) if SEARCH.value else _plan(experiment, cluster)


def _plan(experiment: "Experiment", cluster: "Cluster") -> int:
    from train.parallel.planner.compiled import CompiledStep, TooLargeError, compiled_step
    from train.parallel.planner.job import job_of, mesh_for
    from train.parallel.planner.search import search
    from train.parallel.planner.words import other_meshes, plan_of
    from train.terminal.progress import Progress

    if MESH.value is None:
        experiment = dataclasses.replace(experiment, mesh=mesh_for(experiment.mesh, cluster))
    job = job_of(experiment, cluster)
    compiled: CompiledStep | str | None = None
    if COMPILE.value:
        with Progress(f"compiling for {cluster}", 1) as progress:
            try:
                compiled = compiled_step(experiment, cluster, _cache_folder())
            except TooLargeError as error:
                compiled = str(error)
            progress.update(1)
    plan = plan_of(job, experiment.training.num_steps, compiled)
    lines = list(plan.lines)
    if not plan.fits:
        measured = compiled if isinstance(compiled, CompiledStep) else None
        lines += other_meshes(experiment, search(experiment, cluster), job, measured)
    cli.print_escaped("\n".join(lines))
    return 0 if plan.fits else EXIT_DOES_NOT_FIT


def _search(experiment: "Experiment", cluster: "Cluster") -> int:
    from train.parallel.planner.compiled import compiled_step
    from train.parallel.planner.search import compile_best, search
    from train.parallel.planner.words import search_plan
    from train.terminal.progress import Progress

    with Progress("searching, meshes", None) as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        batches = cli.numbers_from(BATCHES, "number of sequences", "64,128")
        found = search(experiment, cluster, batches, show)
    compiled = []
    if COMPILE.value and found.fitting:
        with Progress("compiling the best", NUM_COMPILED) as progress:
            progress.update(0)
            compiled = compile_best(
                experiment,
                found.fitting,
                NUM_COMPILED,
                lambda candidate: compiled_step(candidate, cluster, _cache_folder()),
                progress.update,
            )
    plan = search_plan(experiment, found, compiled)
    cli.print_escaped("\n".join(plan.lines))
    return 0 if plan.fits else EXIT_DOES_NOT_FIT


def _cluster() -> "Cluster":
    """The chips of --topology and --slices. Raises UserError for a topology that is missing or is none."""
    if TOPOLOGY.value is None:
        raise UserError("--topology is missing: which chips? Try --topology=v5p:4x4x4")
    from train.parallel.planner.chips import parse_cluster

    return parse_cluster(TOPOLOGY.value, SLICES.value)


def _serve() -> int:
    """Plans inference."""
    for flag in (SEARCH, COMPILE, BATCHES):
        if flag.value:
            raise UserError(f"--{flag.name} is about a training step: give it without --serve")
    given = [flag for flag in (CONFIG, MODEL, RUN) if flag.value is not None]
    if len(given) != 1:
        raise UserError("--serve plans one model: give one of --config=FILE, --model=llama-3.1-8b and --run=FOLDER")
    if SET.value and CONFIG.value is None:
        raise UserError(f"--set={SET.value[0]} changes a field of --config; give it without --{given[0].name}")
    cluster = _cluster()
    from train.parallel.planner.serving import Devices
    from train.parallel.planner.serving_plan import serve_plan

    config, table = _served_model()
    devices = Devices(cluster, cli.mesh_from_flag(MESH), table)
    plan = serve_plan(config, devices, ROWS.value, config.context_length if CONTEXT.value is None else CONTEXT.value)
    if JSON.value:
        print(streams.as_json(plan.as_json()))
    else:
        cli.print_escaped("\n".join(plan.lines()))
    return 0 if plan.fits else EXIT_DOES_NOT_FIT


def _served_model() -> "tuple[ModelConfig, Sharding]":
    """The model of the one flag that names it, and its sharding table. Raises UserError if there is none."""
    from train.parallel.table import Sharding

    if CONFIG.value is not None:
        experiment = cli.experiment_from(CONFIG.value, SET.value, None)
        return experiment.model, experiment.sharding
    if MODEL.value is not None:
        return cli.published_in_bfloat16(MODEL.value), Sharding()
    from train.conversion.loading import described_model

    return described_model(RUN.value)


def _cache_folder() -> pathlib.Path | None:
    """The folder of compiled plans, beside that of compiled programs; None where that is not on a disk."""
    programs = cli.compilation_cache()
    return None if programs is None or "://" in programs else pathlib.Path(programs).with_name("plans")


if __name__ == "__main__":
    cli.run(main, prints_result=True)
