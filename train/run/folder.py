"""The run folder: its files, its lock, and the experiment that it belongs to.

config.json        the resolved experiment, which loads back to the same one
data.json          where the dataset is
environment.json   versions, devices, git revision, one entry for every start
parameters.json    name, role, shape, axes, placement and count of every parameter, and what updates it
evaluations/       the tokens of further texts that the run is evaluated on
origin/            the files beside published weights, if the run was read from them or started from such a run
metrics.jsonl  statistics.jsonl  throughput.jsonl  tensorboard/  samples.txt  status.json  report.html  checkpoints/
"""

import contextlib
import pathlib
from collections.abc import Iterator

from model.errors import UserError
from train import experiment as experiments
from train.experiment import Experiment
from train.files.files import LockedError, lock

ORIGIN = "origin"


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
            raise UserError(
                f"{run} is in use by process {error.owner}; wait for it or stop it (kill {error.owner}), or give "
                "another --run"
            ) from error
        except OSError as error:
            raise UserError(f"{run} cannot be a run folder: {error.strerror}; give another --run") from error
        yield


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


def has_begun(run: pathlib.Path) -> bool:
    """Whether a run has steps or checkpoints."""
    metrics, checkpoints = run / "metrics.jsonl", run / "checkpoints"
    return (metrics.is_file() and metrics.stat().st_size > 0) or (checkpoints.is_dir() and any(checkpoints.iterdir()))
