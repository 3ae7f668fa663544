"""Which job a process belongs to: from flags, and from the variables that schedulers set."""

import pytest

from model.errors import UserError
from train.process.cluster import Membership, membership, task_of_several

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.fixture
def environment(monkeypatch):
    """A function that leaves of a scheduler's variables only the given ones."""
    import os

    def only(variables):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_COMPLETION", "TPU_WORKER")):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return only


def test_alone(environment):
    environment({})
    assert membership() is None
    assert membership("node1:8476", 1, 0) is None


def test_flags(environment):
    environment(SLURM)  # flags come before the environment
    assert membership("node1:8476", 4, 3) == Membership("node1:8476", 4, 3)
    assert membership("[fe80::1]:8476", 2, 0) == Membership("[fe80::1]:8476", 2, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "--coordinator missing: several processes need"),
        (("a:1", None, None), "--num_processes and --process_id missing"),
        (("a", 2, 0), "--coordinator=a: expected HOST:PORT"),
        (("a:99999", 2, 0), "expected HOST:PORT"),
        (("http://a:1", 2, 0), "expected HOST:PORT"),
        (("a:1", 0, 0), "--num_processes=0: expected a whole number from 1"),
        (("a:1", 2, 2), "--process_id=2: expected a number from 0 to 1"),
        (("a:1", 2, -1), "--process_id=-1: expected"),
    ],
)
def test_flags_that_do_not_fit(given, message):
    with pytest.raises(UserError, match=message):
        membership(*given)


def test_slurm(environment):
    environment(SLURM)
    assert membership() == Membership("node3:61440", 2, 1)  # the only process of its host has all its devices
    environment(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"})
    assert membership() == Membership("node3:61440", 2, 1, devices=(1,))
    environment(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert membership() is None
    environment({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"})  # outside srun
    assert membership() is None


def test_open_mpi(environment):
    environment(OPEN_MPI)
    found = membership()
    assert (found.count, found.index, found.devices) == (4, 2, (0,))
    assert found.coordinator.startswith("10.96.0.1:")
    environment(OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert membership().devices is None


def test_a_pod_outside_an_indexed_job_is_alone(environment):
    environment({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert membership() is None


def test_an_environment_that_cannot_be_read(environment):
    environment(SLURM | {"SLURM_NTASKS": "many"})
    with pytest.raises(UserError, match="could not be read .*--num_processes=1"):
        membership()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # the script of sbatch, which runs once
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, ("srun", 2, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, ("mpirun", 0, 2)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, ("mpirun", 1, 2)),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, None),  # one host of a slice
    ],
)
def test_tasks_of_a_launcher(variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert task_of_several() == expected
