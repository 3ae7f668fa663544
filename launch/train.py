"""Trains a model.

    python -m launch.train --config=configs/quickstart.py --run=runs/quickstart
    python -m launch.train --config=configs/quickstart.py --run=runs/eight --mesh=fsdp=8
    python -m launch.train --config=configs/alignment/conversations.py --init_from=runs/llama-1b --run=runs/chat
    srun python -m launch.train --config=configs/quickstart.py --run=runs/many

Several processes, such as one a host, train one run in a folder that all of them see. Under srun, mpirun, on Cloud TPU
VMs and in GKE jobs they find each other; elsewhere each gets --coordinator=HOST:PORT --num_processes=N --process_id=I.

The run folder holds everything that belongs to the run; the same command continues an interrupted run. Exit status: 0
when the run finished or reached --hard_stop; 75 when a signal ended it, or a notice of maintenance, 69 when another
process of the run was lost, 70 when it made no progress for --stall_timeout seconds: the same command continues it; 2
for a mistake in the input.

Ctrl-C, SIGTERM, SIGHUP (a terminal that is closed), SIGUSR1, SIGUSR2 (sbatch --signal) and SIGXCPU end the run after
the current step, with a checkpoint; of several processes any one may get the signal, and all end after the same step.
Under nohup SIGHUP is ignored, as it should be. A second Ctrl-C or SIGQUIT ends the run at once and loses the steps
since the last checkpoint. A terminal, pipe or log that accepts no more output does not end the run.
"""

import contextlib
import pathlib

from absl import flags

from launch.command import cli
from launch.command.signals import EXIT_PREEMPTED, StopRequest
from model.errors import UserError
from train.process.hosts import is_writer
from train.process.maintenance import maintenance_watch, on_cloud_tpu
from train.process.watchdog import STALL_SECONDS

CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
INIT_FROM = cli.define_path(
    "init_from",
    None,
    "A run: the config's model becomes its model, with the adapters and the score head that the config adds, and "
    "training starts from its parameters.",
)
MESH = cli.define_mesh()
HOSTS = cli.define_hosts()
RUN = cli.define_path("run", None, "The run folder; runs/NAME after the config's name when not given.")
HARD_STOP = flags.DEFINE_integer(
    "hard_stop", None, "Ends the run at this step, leaving its schedule as it is.", lower_bound=1
)
STALL_TIMEOUT = flags.DEFINE_float(
    "stall_timeout",
    STALL_SECONDS,
    "Seconds without progress (a step, a batch of an evaluation, a hook, a save) after which the run writes all stacks "
    "and ends with status 70; compiling and saving have two hours. 0 for never.",
    lower_bound=0,
)
MAINTENANCE = flags.DEFINE_bool(
    "maintenance",
    None,
    "Ends the run as SIGTERM does when Google Cloud announces maintenance of this host or takes it away. When not "
    "given: on Cloud TPU VMs.",
)
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "Profiles these steps, such as 10:13, both included: RUN/profile gets a trace for XProf, the memory of the "
    "devices, and the operations with most time, which the report lists.",
)
PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Prints the resolved config, the parameters, FLOPs and memory per device; trains nothing."
)


def main(argv: list[str]) -> int:
    """Reads the flags and trains."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --config=configs/quickstart.py")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    cli.prepare_jax(several=HOSTS, xla_flags=True)
    experiment = cli.experiment_from(CONFIG.value, SET.value, cli.mesh_from_flag(MESH), INIT_FROM.value)
    if PRINT_CONFIG.value:
        return _print_config(experiment) if is_writer() else 0
    from train.files.paths import literal_path
    from train.files.spool import spool_folder
    from train.hooks.profile import parse_steps, profile_steps
    from train.loop import train
    from train.report import summary

    named = literal_path(RUN.value or f"runs/{pathlib.Path(CONFIG.value).stem}")
    hooks = [] if PROFILE_STEPS.value is None else [profile_steps(parse_steps(PROFILE_STEPS.value))]
    watched = on_cloud_tpu() if MAINTENANCE.value is None else MAINTENANCE.value
    with StopRequest() as stop, maintenance_watch(stop) if watched else contextlib.nullcontext():
        outcome = train(
            experiment,
            named,
            hard_stop=HARD_STOP.value,
            say=cli.print_escaped,
            stop=stop,
            hooks=hooks,
            stall_seconds=STALL_TIMEOUT.value,
        )
    status = EXIT_PREEMPTED if outcome.state == "interrupted" else 0
    if not is_writer():
        return status
    run = named if isinstance(named, pathlib.Path) else spool_folder(named)
    if (run / "report.html").is_file():  # there is no report before the text is prepared
        print(summary(run))
        cli.print_escaped(f"report: {run / 'report.html'}")
    if outcome.reason:
        cli.print_escaped(f"{outcome.state} at step {outcome.step}: {outcome.reason}")
    return status


def _print_config(experiment: object) -> int:
    import json

    from model.options.json import to_json
    from train.experiment import Experiment
    from train.parallel.mesh import make_mesh
    from train.run import parameter_table as parameters
    from train.run.checks import check_mesh

    assert isinstance(experiment, Experiment)
    check_mesh(experiment)
    print(json.dumps(to_json(experiment), indent=2))
    print()
    print(parameters.describe(experiment, make_mesh(experiment.mesh)))
    return 0


if __name__ == "__main__":
    cli.run(main, several=True)
