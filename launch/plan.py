"""Plans a training run for a cluster that need not be here: whether it fits, its speed, its cost.

    python -m launch.plan --config=configs/shakespeare_char.py --topology=v5e:4x4
    python -m launch.plan --config=configs/mine.py --topology=v5p:8x8x8 --mesh=fsdp=64,tensor=8 --set model.remat=full
    python -m launch.plan --config=configs/mine.py --topology=h100:8x8 --mesh=fsdp=64
    python -m launch.plan --config=configs/mine.py --topology=v5p:4x4x4 --compile

Prints the memory of a chip, operations, transfers, step time, MFU, tokens a second, days and chip-hours. All of it is
arithmetic from the config and from data sheets: nothing is compiled, and no accelerator is needed. A topology is a chip
and a shape: a torus of a TPU slice (--slices for several), or nodes x GPUs of a node. Without --mesh the config's mesh
is taken if it fits the cluster, and otherwise FSDP over all of it.

--compile also compiles the step for these TPUs, which need not be here (libtpu, extra `tpu`): it adds the peak of
memory and the collectives of the compiled program, and this peak decides whether the plan fits. A 7B takes a minute or
two; the same plan again takes seconds, from a folder beside that of compiled programs.

Exit status: 0 if the plan fits, 1 if it does not, 2 for a mistake in the input.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from launch import cli
from model.errors import UserError

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

EXIT_DOES_NOT_FIT = 1


def main(argv: list[str]) -> int:
    """Reads the flags and prints the plan."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --topology=v5p:4x4x4")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    if TOPOLOGY.value is None:
        raise UserError("--topology is missing: which chips? Try --topology=v5p:4x4x4")
    from train.parallel.planner.compiled import compiled_step, prepare_environment

    if COMPILE.value:
        prepare_environment()
    from train.parallel.planner.chips import parse_cluster
    from train.parallel.planner.job import job_of, mesh_for
    from train.parallel.planner.words import plan_of

    cluster = parse_cluster(TOPOLOGY.value, SLICES.value)
    mesh = cli.mesh_from_flag(MESH)
    experiment = cli.experiment_from(CONFIG.value, SET.value, mesh)
    if mesh is None:
        experiment = dataclasses.replace(experiment, mesh=mesh_for(experiment.mesh, cluster))
    job, compiled = job_of(experiment, cluster), None
    if COMPILE.value:
        print(f"compiling for {cluster}", file=sys.stderr, flush=True)
        compiled = compiled_step(experiment, cluster, _cache_folder())
    plan = plan_of(job, experiment.training.num_steps, compiled)
    cli.print_escaped("\n".join(plan.lines))
    return 0 if plan.fits else EXIT_DOES_NOT_FIT


def _cache_folder() -> pathlib.Path | None:
    """The folder of compiled plans, beside that of compiled programs; None where that is not on a disk."""
    programs = cli.compilation_cache()
    return None if programs is None or "://" in programs else pathlib.Path(programs).with_name("plans")


if __name__ == "__main__":
    cli.run(main, prints_result=True)
