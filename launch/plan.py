"""Plans a training run for a cluster that need not be here: whether it fits, its speed, its cost.

    python -m launch.plan --config=configs/shakespeare_char.py --topology=v5e:4x4
    python -m launch.plan --config=configs/mine.py --topology=v5p:8x8x8 --mesh=fsdp=64,tensor=8 --set model.remat=full
    python -m launch.plan --config=configs/mine.py --topology=h100:8x8 --mesh=fsdp=64

Prints the memory of a chip, operations, transfers, step time, MFU, tokens a second, days and chip-hours. All of it is
arithmetic from the config and from data sheets: nothing is compiled, and no accelerator is needed. A topology is a chip
and a shape: a torus of a TPU slice (--slices for several), or nodes x GPUs of a node. Without --mesh the config's mesh
is taken if it fits the cluster, and otherwise FSDP over all of it.

Exit status: 0 if the plan fits, 1 if it does not, 2 for a mistake in the input.
"""

import dataclasses

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

EXIT_DOES_NOT_FIT = 1


def main(argv: list[str]) -> int:
    """Reads the flags and prints the plan."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --topology=v5p:4x4x4")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    if TOPOLOGY.value is None:
        raise UserError("--topology is missing: which chips? Try --topology=v5p:4x4x4")
    from train.config_file import from_file
    from train.parallel.planner.chips import parse_cluster
    from train.parallel.planner.job import job_of, mesh_for
    from train.parallel.planner.words import plan_of

    cluster = parse_cluster(TOPOLOGY.value, SLICES.value)
    mesh = cli.mesh_from_flag(MESH)
    experiment = from_file(CONFIG.value, SET.value if mesh is None else [*SET.value, f"mesh={mesh}"])
    if mesh is None:
        experiment = dataclasses.replace(experiment, mesh=mesh_for(experiment.mesh, cluster))
    plan = plan_of(job_of(experiment, cluster), experiment.training.num_steps)
    cli.print_escaped("\n".join(plan.lines))
    return 0 if plan.fits else EXIT_DOES_NOT_FIT


if __name__ == "__main__":
    cli.run(main, prints_result=True)
