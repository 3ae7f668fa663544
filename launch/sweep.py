r"""Runs an ablation: every variant with every seed, made comparable, and a report of the differences.

    python -m launch.sweep --config=configs/ablations/positions.py --run=runs/positions
    python -m launch.sweep --config=configs/ablations/positions.py --run=runs/positions --jobs=4
    python -m launch.sweep --config=configs/ablations/positions.py --run=/shared/positions --to=slurm --partition=gpu \
        --gpus_per_node=1 --time=4:00:00 --dry_run

The file names a base and variants, the seeds, and what all have in common (train/lab/ablation.py). Each run is an
ordinary run folder, RUN/VARIANT-seedN, and RUN/sweep.json says what was changed in it; any other command takes them.

With --joint=N up to N runs train in one compiled program, in one process (launch/clusters/joint.py): those of a variant
with all its seeds, and of variants that differ in the learning rate, weight decay or clipping norm alone. Others run as
before.

The same command continues a sweep: runs that are done are skipped, the others continue from their checkpoints, and
further variants and seeds of the file are added. Seeds that come after results are a second look, and the report says
by how much they raise the rate of false verdicts: declare all seeds before the first run. A run that fails leaves the
others alone and is named at the end.
Ctrl-C saves and ends all runs; a second one kills them. Runs save and end too when this process is killed, or runs out
of memory; the same command given at once waits for that. --only=report makes the report of the runs that are done, as
for a sweep on a cluster; --only=search ends after the search of the learning rates, where the file asks for one.

On SLURM the sweep is a job array, on GKE an indexed job, and --jobs is how many run at a time; --dry_run prints exactly
what would be submitted. --set changes the base, and so all variants. Flags of launch.train come after two dashes.

Exit status: 0 when all runs are done, or submitted; 1 when one failed; 75 when a signal ended the sweep; 2 for a
mistake in the input.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.clusters import here
from launch.clusters.engine_flags import define_engine_flags, engine_from_flags, require_engine
from launch.clusters.gke import Gke
from launch.clusters.job import Job, check_devices
from launch.clusters.pool import cores_here, gpus_here, places, starter
from launch.clusters.slurm import Slurm
from launch.command import cli, lifeline
from model.errors import UserError

if TYPE_CHECKING:
    from train.lab.sweep import Sweep
    from train.lab.variants import Variant

_ROUNDS = 3  # of the measurement of steps
CLUSTERS: dict[str, Any] = {engine.NAME: engine for engine in (Slurm, Gke)}

CONFIG = cli.define_path("config", None, "The ablation: a Python file that assigns `ablation`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field of the base: path.to.field=value; may be repeated.")
MESH = cli.define_mesh()
RUN = cli.define_path("run", None, "The folder of the sweep; runs/NAME after the config's name when not given.")
TO = flags.DEFINE_string("to", "local", "Where the runs run: local (this machine), slurm or gke.")
JOBS = flags.DEFINE_integer(
    "jobs",
    None,
    "How many runs at a time. On this machine one for each GPU when not given, or one; on a cluster all of them.",
    lower_bound=1,
)
JOINT = flags.DEFINE_integer(
    "joint",
    None,
    "The most runs of equal shapes that train in one compiled program, in one process; 1 for none. When not given: "
    "with GPUs here as many small models as fill one of them (train/joint/groups.py), 1 elsewhere.",
    lower_bound=1,
)
ONLY = flags.DEFINE_enum("only", None, ["search", "report"], "Ends after the search of rates, or runs nothing at all.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Prints exactly what would be run or submitted, and nothing else.")
_FLAGS = define_engine_flags(CLUSTERS, without=("seeds", "variant", "max_running"))


def main(argv: list[str]) -> int:
    """Reads the flags, and runs, submits, prints or reports."""
    if wrong := [word for word in argv[1:] if not word.startswith("--") or word == "--"]:
        raise UserError(
            f"unexpected argument {wrong[0]!r}; after -- come flags of launch.train, as in -- --peer_timeout=9"
        )
    if CONFIG.value is None:
        raise UserError("--config is missing: which ablation? Try --config=configs/ablations/positions.py")
    require_engine(("local", *CLUSTERS), TO.value)
    engine = None
    if TO.value == "local":
        if given := [name for name, flag in _FLAGS.items() if flag.value is not None]:
            raise UserError(f"--{given[0]} has no effect with --to=local; it belongs to a cluster: --to=slurm or gke")
    else:
        engine = engine_from_flags(CLUSTERS, TO.value, _FLAGS)
    return _sweep(tuple(argv[1:]), engine)


def _sweep(more: tuple[str, ...], engine: Any) -> int:
    """Runs or submits the sweep that the flags name; `engine` is the cluster, None for this machine."""
    from train.files.paths import local_path
    from train.lab import folder as folders
    from train.lab.sweep import Sweep

    environment = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process computes shapes alone, and leaves the devices to the runs
    folder = local_path(RUN.value or f"runs/{pathlib.Path(CONFIG.value).stem}", "the folder of a sweep")
    common = [*SET.value, *([] if MESH.value is None else [f"mesh={cli.mesh_from_flag(MESH)}"])]

    def resolved() -> Sweep:
        measure = functools.partial(_step_seconds, common=common, environment=environment)
        return Sweep.from_file(CONFIG.value, folder, common, measure)

    if engine is not None and ONLY.value != "report":
        return _submit(resolved(), engine, more)
    gpus = gpus_here(environment)
    shares = places(JOBS.value, gpus, cores_here())
    if DRY_RUN.value:
        sweep = resolved()
        for job in here.jobs_of(sweep, sweep.runs(), more, _joint(sweep, gpus), len(shares)):
            print(shlex.join(job.command()))
        return 0
    with folders.locked(folder):
        sweep = resolved()
        sweep.save()
        for line in sweep.notes():
            cli.print_escaped(line)
        start = starter(environment, here.log_of_job)
        return here.run_sweep(sweep, shares, start, ONLY.value, more, _joint(sweep, gpus))


def _joint(sweep: "Sweep", gpus: Sequence[str]) -> int:
    """The most runs of this machine in one program: --joint, or as many as suit its GPUs."""
    if JOINT.value is not None:
        return int(JOINT.value)
    if not gpus:
        return 1
    from train.joint.groups import suggested_size

    return suggested_size(sweep.ablation.base)


def _step_seconds(
    variants: "Sequence[Variant]", common: Sequence[str], environment: Mapping[str, str]
) -> dict[str, float]:
    """Measures the step of each variant, in processes of their own, on the devices here; the fastest of some rounds.

    The variants take turns, so that other work on the machine slows all of them down alike. Raises UserError when one
    fails.
    """
    found: dict[str, float] = {}
    for number in range(1, _ROUNDS + 1):
        for variant in variants:
            print(f"measuring the step of {variant.name}, {number} of {_ROUNDS}", file=sys.stderr)
            settings = [f"--set={text}" for text in (*common, *variant.settings)]
            words = [sys.executable, "-m", "launch.bench", f"--config={CONFIG.value}", "--json", *settings]
            own = lifeline.environment(environment)
            done = subprocess.run(
                words, env=own, pass_fds=lifeline.descriptors(), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise UserError(f"the step of {variant.name} could not be measured: {done.stderr.strip()[-2000:]}")
            seconds = float(json.loads(done.stdout)["seconds"])
            found[variant.name] = min(seconds, found.get(variant.name, seconds))
    return found


def _submit(sweep: "Sweep", engine: Any, more: tuple[str, ...]) -> int:
    """Submits the runs that are not done, or prints what would be submitted."""
    from train.lab import folder as folders
    from train.lab.sweep import require_searched

    if ONLY.value == "search":
        raise UserError(f"--to={engine.NAME}: the search of rates runs on this machine; leave --to out")
    require_searched(sweep, engine.NAME)
    left = [run for run in sweep.runs() if not folders.is_done(run)]
    runs = [run for run in left if folders.trunk_of(run, left) is None]
    if later := len(left) - len(runs):
        print(f"{later} runs branch from runs that are not done; give the same command again then", file=sys.stderr)
    if not runs:
        print(f"all runs in {sweep.folder} are done; --only=report makes the report")
        return 0
    for run in runs:
        check_devices(run.experiment, engine.devices)
    whole, jobs = Job(config=sweep.config, run=str(sweep.folder)), here.jobs_of(sweep, runs, more, JOINT.value or 1)
    if isinstance(engine, Gke):
        if DRY_RUN.value:
            print(engine.sweep_text(whole, jobs, JOBS.value), end="")
            return 0
        return engine.submit_sweep(whole, jobs, JOBS.value)
    engine = dataclasses.replace(engine, max_running=JOBS.value)
    script = engine.script(whole, jobs)
    if DRY_RUN.value:
        print(script, end="")
        return 0
    with folders.locked(sweep.folder):
        sweep.save()
        folders.share_texts(sweep.folder, runs)
        status: int = engine.submit_array(whole, jobs)
    return status


if __name__ == "__main__":
    cli.run(main)
