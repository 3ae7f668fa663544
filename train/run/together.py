"""Checks of a run that several processes train: the same command, and one folder that all see."""

import hashlib
import json
import pathlib
import time

from model.errors import UserError
from model.options.json import to_json
from train.experiment import Experiment
from train.files.paths import AnyPath
from train.process import hosts

SHARED_SECONDS = 60.0  # a network file system may show a new file so much later


def refuse_store(run: AnyPath) -> None:
    """Raises UserError for a run folder in a store, which one process fills from its own disk."""
    if not isinstance(run, pathlib.Path):
        raise UserError(
            f"--run={run}: several processes write a run into a folder of a file system that all of them see; give "
            "such a folder, and copy it to the store afterwards"
        )


def require_same_command(experiment: Experiment, hard_stop: int | None) -> None:
    """Raises UserError when the processes were not all given the same experiment and the same `hard_stop`."""
    text = json.dumps([to_json(experiment), hard_stop], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    hosts.require_same("experiment", digest, "give all the same --config, --set, --mesh and --hard_stop, and one code")


def require_shared_folder(run: pathlib.Path) -> None:
    """Raises UserError when a process does not see the run's config.json as the writer wrote it."""
    if not hosts.joined():
        return
    expected = hosts.from_writer(lambda: _digest(run))
    deadline = time.monotonic() + SHARED_SECONDS
    while (found := _digest(run)) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    hosts.require_same(f"content of {run}", found, hosts.SHARED_FOLDER)


def _digest(run: pathlib.Path) -> str:
    try:
        return hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
    except OSError as error:
        return error.strerror or "cannot be read"


def silent(line: str) -> None:
    """Prints nothing: the `say` of a process that is not the writer."""
