"""Tokenizing on the machines of a Ray cluster, for a text that one machine would read for too long.

A job is that of `train.data.prepare.workers`, and writes the same bytes wherever it runs. Every machine must find the
text, the dataset folder and Cairn's packages under the paths of the machine that gives the jobs: a shared file system.
Where a machine is lost, its job runs again elsewhere. Ray: Moritz et al. 2018, "Ray: A Distributed Framework for
Emerging AI Applications".
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from train.data.prepare.tokenizing import JobRunner
from train.data.prepare.workers import ROOT, Json

INSTALL = "pip install -e '.[ray]'"


# The runners of a process of the cluster, which runs many jobs, by the command that they belong to.
_RUNNERS: dict[str, JobRunner] = {}


def run_job(command: str, setup: Json, job: Json) -> Json:
    """Returns the result of a job, or the message of a UserError under "user_error"; runs on the cluster."""
    try:
        if command not in _RUNNERS:
            _RUNNERS.clear()
            _RUNNERS[command] = JobRunner(**setup)
        return _RUNNERS[command].run(job)
    except UserError as error:
        return {"user_error": str(error)}


def run_jobs(setup: Json, jobs: list[Json], workers: int | None) -> Iterator[Json]:
    """Runs jobs on a Ray cluster and yields results as they come.

    Joins the cluster that the variable RAY_ADDRESS names, or the one that this machine belongs to; without either it
    starts Ray on this machine, and ends it afterwards.

    Args:
      setup, jobs: as of `train.data.prepare.workers.run_jobs`.
      workers: how many processes at most; one for each processor core of the cluster if None.

    Raises:
      UserError: Ray is not installed, the cluster does not answer, or a job raised one.
    """
    if not jobs:
        return
    with _cluster() as ray:
        # Tasks, not actors: an actor without a job keeps the core on which a lost machine's job could run again.
        task = ray.remote(num_cpus=1, max_retries=-1)(run_job)
        shared, command = ray.put(setup), uuid.uuid4().hex
        queue = list(reversed(jobs))
        running: list[Any] = []
        while queue or running:
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)))  # machines come and go
            while queue and len(running) < min(workers or cores, cores):
                running.append(task.remote(command, shared, queue.pop()))
            ready, running = ray.wait(running, num_returns=1)
            for result in ray.get(ready):
                if "user_error" in result:
                    raise UserError(result["user_error"])
                yield result


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Gives the connected module ray, and disconnects at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics about its use over the network
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError(f"Ray is not installed: {INSTALL}") from None
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"PYTHONPATH": paths, "PYTHONUTF8": str(int(sys.flags.utf8_mode))}
    try:
        ray.init(
            include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": variables}
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        address = os.environ.get("RAY_ADDRESS", "not set")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"no Ray cluster answers (RAY_ADDRESS is {address}): {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
