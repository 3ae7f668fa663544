r"""Submits a training run to an engine: processes on this machine, SLURM, Kubernetes on GKE, or Cloud TPU VMs.

    python -m launch.submit --to=local --processes=2 --devices_per_process=4 --config=configs/quickstart.py
    python -m launch.submit --to=slurm --partition=gpu --nodes=4 --gpus_per_node=8 --config=configs/text_file.py \
        --run=/shared/runs/mine --mesh=fsdp=32 --time=24:00:00
    python -m launch.submit --to=gke --topology=v5p:4x4x4 --image=IMAGE --claim=runs:/runs \
        --config=configs/text_file.py --run=/runs/mine --dry_run
    python -m launch.submit --to=tpu_vm --topology=v5e:8x8 --zone=us-west4-a --setup='COMMANDS' \
        --config=configs/text_file.py --run=/runs/mine --dry_run

Every process runs `launch.train` with --config, --set, --mesh and --run; further flags of it come after two dashes, as
in `-- --hard_stop=1000`. --dry_run prints exactly what would be submitted or run, and nothing else: the commands, the
script of sbatch, the manifest of kubectl, or the script with gcloud. A flag that belongs to one engine is refused with
another. The experiment is read and checked here first.

A run that a signal ends (status 75), that loses a process (69) or that stands still (70) is started again by SLURM, GKE
and on TPU VMs, and continues from its last checkpoint. Exit status: that of the worst process for local; else 0 when
the run was submitted, and 2 for a mistake in the input.
"""

import pathlib
from typing import Any

from absl import flags

from launch.clusters.engine_flags import define_engine_flags, engine_from_flags, require_engine
from launch.clusters.gke import Gke
from launch.clusters.job import Engine, Job, check_devices
from launch.clusters.local import Local
from launch.clusters.slurm import Slurm
from launch.clusters.tpu_vm import TpuVm
from launch.command import cli
from model.errors import UserError

ENGINES: dict[str, Any] = {engine.NAME: engine for engine in (Local, Slurm, Gke, TpuVm)}

TO = flags.DEFINE_string("to", None, f"The engine: {', '.join(ENGINES)}.")
CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
MESH = cli.define_mesh()
RUN = cli.define_path("run", None, "The run folder; runs/NAME after the config's name when not given.")
PYTHON = flags.DEFINE_string("python", None, "The Python of the processes; this one for local, else that of the PATH.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Prints exactly what would be submitted or run, and nothing else.")


_FLAGS = define_engine_flags(ENGINES)


def main(argv: list[str]) -> int:
    """Reads the flags, and prints or submits."""
    if TO.value is None:
        raise UserError(f"--to is missing: which engine? One of {', '.join(ENGINES)}")
    require_engine(ENGINES, TO.value)
    if wrong := [word for word in argv[1:] if not word.startswith("--") or word == "--"]:
        raise UserError(
            f"unexpected argument {wrong[0]!r}; after -- come flags of launch.train, as in -- --hard_stop=9"
        )
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    engine: Engine = engine_from_flags(ENGINES, TO.value, _FLAGS)
    job = Job(
        config=CONFIG.value,
        run=RUN.value or f"runs/{pathlib.Path(CONFIG.value).stem}",
        settings=tuple(SET.value),
        mesh=MESH.value,
        more=tuple(argv[1:]),
        python=PYTHON.value,
    )
    for one in engine.jobs(job) if isinstance(engine, Slurm) else [job]:
        experiment = cli.experiment_from(one.config, list(one.settings), cli.mesh_from_flag(MESH))
        check_devices(experiment, engine.devices)
    if DRY_RUN.value:
        print(engine.text(job), end="")
        return 0
    return engine.submit(job)


if __name__ == "__main__":
    cli.run(main, prints_result=True)
