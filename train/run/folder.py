"""The run folder: its files, its lock, and the experiment that it belongs to.

config.json        the resolved experiment, which loads back to the same one
environment.json   versions, devices, git revision, one entry for every start
data/              the tokens of its text, unless the text was a dataset already
data.json          where the dataset is
evaluations/       the tokens of further texts that the run is evaluated on
origin/            the files beside published weights, if the run was read from them or started from such a run
adapter/           the same of an adapter in peft's format
parameters.json    name, role, shape, axes, placement and count of every parameter, and what updates it
reference.json     of a preference objective: the reference, and where its log-probabilities are
reference/         these, if the data are in a store
metrics.jsonl      losses and the other computed numbers
statistics.jsonl   the statistics of layers and roles, if the experiment asks for them
throughput.jsonl   times
samples.txt        generated text
NAME.old           one of these four files, of a run that had no checkpoint and started over
tensorboard/       the metrics for TensorBoard, if the experiment asks for it
wandb.json         the id of the Weights & Biases run, if there is one
wandb/             the files of the package wandb
time_spent.jsonl   the seconds of every session by activity; not rewound, so that restarts count
spikes/            a note of each step whose loss or gradient norm was far above the steps before it
profile/           a trace of the steps of --profile_steps, the memory of the devices, the longest operations
status.json        running, finished, stopped, interrupted or failed, and at which step
checkpoints/       the states from which the run continues
damaged/           checkpoints that were found to be damaged
logs/              stacks-PROCESS.txt, of a run that stood still; slurm-JOB.txt, what a job on SLURM printed
environment.json.damaged   the same of that file
perplexity/        the scores of documents, from which an interrupted launch.evaluate --resume continues
inspection/        the pages of launch.inspect
evaluation.json    of the quickstart: the final measures beside gzip and xz
files.txt          of the quickstart: the files that the model wrote
report.html        the report

The files whose names begin with a dot are locks, and notes about uploads to a store (train/files/spool.py). The names
are listed in train/data/text/cairn_files.py: text that is learned from never includes these files.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from model.errors import UserError
from train import experiment as experiments
from train.experiment import Experiment
from train.files.files import LockedError, lock
from train.files.paths import AnyPath
from train.files.remote import local_copy

ORIGIN, ADAPTER = "origin", "adapter"
RESULTS = "perplexity"


@contextlib.contextmanager
def locked(run: pathlib.Path) -> Iterator[None]:
    """Locks a run folder for writing.

    Raises UserError when another process holds the lock, with its number, and when the path cannot be a run folder.
    """
    experiments.check_run_folder(run)
    with contextlib.ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(run / ".lock", wait=False))
        except LockedError as error:
            raise UserError(f"{run} is in use by {error}, or give another --run") from error
        except OSError as error:
            raise UserError(f"{run} cannot be a run folder: {error.strerror}; give another --run") from error
        yield


def owner_of(run: pathlib.Path) -> str | None:
    """The number of the process that trains in a folder; None if none does, as far as its lock says."""
    with contextlib.suppress(OSError):
        if (run / ".lock").is_file():
            try:
                with lock(run / ".lock", wait=False):
                    pass
            except LockedError as error:
                return error.owner
    return None


def claim(run: pathlib.Path, experiment: Experiment) -> None:
    """Assigns the folder to this experiment; call it under `locked`.

    Raises UserError when the folder holds steps of another experiment. A run that failed before its first step holds
    none, so the user may correct the command and give it again.
    """
    if has_begun(run):
        if not (run / "config.json").exists():
            raise UserError(f"{run} holds checkpoints but no config.json; give another --run, or put its config back")
        experiments.check_same_experiment(experiment, run)
    experiments.save(experiment, run)


def copy_origin_of(source: AnyPath, run: pathlib.Path, adapter: bool = True) -> None:
    """Copies the records of published weights and of an adapter that the source has, so that the run is converted.

    `adapter` is False for a run without adapters, of which the second record would say otherwise.
    """
    for name in (ORIGIN, ADAPTER) if adapter else (ORIGIN,):
        if (source / name).is_dir():
            shutil.copytree(local_copy(source / name), run / name, dirs_exist_ok=True)


def has_begun(run: pathlib.Path) -> bool:
    """Whether a run has steps or checkpoints."""
    metrics, checkpoints = run / "metrics.jsonl", run / "checkpoints"
    return (metrics.is_file() and metrics.stat().st_size > 0) or (checkpoints.is_dir() and any(checkpoints.iterdir()))
