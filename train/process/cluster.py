"""Finds the other processes of a job: from flags, or from the environment that a scheduler sets up.

jax knows SLURM (`srun`), Open MPI (`mpirun`), Cloud TPU VMs, GKE and Kubernetes jobs. The environments are only read
here; train/process/hosts.py brings the processes together.
"""

import dataclasses
import os
import re

from model.errors import UserError

# The variables with the number of tasks and with a task's own number.
_LAUNCHERS = (
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpirun", "PMI_SIZE", "PMI_RANK"),
)
# SLURM's list of tasks on each node: 1(x4), or 2,1.
_ONE_TASK_A_NODE = re.compile(r"1(\(x\d+\))?(,1(\(x\d+\))?)*")


@dataclasses.dataclass(frozen=True)
class Membership:
    """The part of this process in a job of several.

    Attributes:
      coordinator: HOST:PORT of process 0, at which all meet.
      count: the number of processes.
      index: the number of this one, from 0.
      devices: the numbers of the devices on this host that belong to this process; None for all of them.
    """

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None


def membership(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Membership | None:
    """The job that this process belongs to; None if it is meant to run alone.

    Args:
      coordinator: HOST:PORT of process 0. The three arguments are given together, or not at all: then the environment
        decides.
      num_processes: the number of processes.
      process_id: the number of this process, from 0.

    Raises:
      UserError: for arguments that do not fit together, and for an environment that cannot be read.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return _from_environment()
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            f"{' and '.join(missing)} missing: several processes need --coordinator=HOST:PORT --num_processes=N "
            "--process_id=I, with I from 0 to N - 1"
        )
    if not re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^:\s/]+):\d{1,5}", coordinator) or _port(coordinator) > 65535:
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT of process 0, such as node1:8476")
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: expected a whole number from 1")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: expected a number from 0 to {num_processes - 1}")
    return None if num_processes == 1 else Membership(coordinator, num_processes, process_id)


def _from_environment() -> Membership | None:
    from jax._src import clusters  # jax has no public function that only reads the environment

    in_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    if in_kubernetes and "JOB_COMPLETION_INDEX" not in os.environ and "TPU_WORKER_HOSTNAMES" not in os.environ:
        return None  # jax would ask the cluster, which no pod outside an indexed job can
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"the environment of this job could not be read ({error}); give --coordinator=HOST:PORT "
            "--num_processes=N --process_id=I, or --num_processes=1 --process_id=0 --coordinator=localhost:0 to run "
            "alone"
        ) from error
    coordinator, count, index, devices = found
    if coordinator is None or count is None or index is None or count < 2:
        return None
    # jax gives every process the one device that has its number on the host, also to the only process of a host.
    alone_on_host = _is_alone_on_host()
    return Membership(coordinator, count, index, None if devices is None or alone_on_host else tuple(devices))


def task_of_several() -> tuple[str, int, int] | None:
    """The launcher, the number of this task and the number of all, if srun or mpirun started several; else None.

    Reads the launcher's own variables alone: on one host of a TPU slice a command may well run once.
    """
    for launcher, count, index in _LAUNCHERS:
        number, total = os.environ.get(index, ""), os.environ.get(count, "")
        if number.isdecimal() and total.isdecimal() and int(total) > 1:
            return launcher, int(number), int(total)
    return None


def _is_alone_on_host() -> bool:
    """Whether the scheduler started one process a host, which then has all devices of the host."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE")
    if tasks is not None:
        return _ONE_TASK_A_NODE.fullmatch(tasks) is not None
    return os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
