"""Cloud TPU VMs: a shell script that asks for the slices as a queued resource, waits, prepares every host, and trains.

A slice that is taken away (a spot slice, or one in maintenance) is SUSPENDED for good: the script deletes it, asks for
another and continues the run, at most --max_restarts times. At the end it deletes the slices, which cost money; the run
folder must be on a file system that outlives them and that all hosts mount (--setup), such as Filestore.
"""

import dataclasses
import shlex
import subprocess
from typing import ClassVar

from launch.clusters.accelerators import ACCELERATORS, OfTopology, hosts_of, vm_type
from launch.clusters.job import RESTART_STATUSES, Job, lines_of, option, require_program
from model.errors import UserError
from train.files.paths import is_remote
from train.parallel.planner.chips import Cluster

# The hosts that gcloud compute tpus queued-resources ssh reaches at once, whatever its --batch-size (gcloud 528): more
# would wait until the first have trained. The command for a single slice has no such limit.
_MOST_HOSTS = 64
_SSH_LOST = 255  # the status of ssh itself: the host is gone


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuVm(OfTopology):
    """See the module."""

    NAME: ClassVar[str] = "tpu_vm"
    topology: str | None = option(None, "The TPUs of a slice, such as v5p:4x4x4.")
    slices: int = option(1, "TPU slices of that topology.")
    zone: str | None = option(None, "The zone, such as us-east5-a.")
    project: str | None = option(None, "The Google Cloud project; that of gcloud's configuration if not given.")
    runtime_version: str | None = option(None, "The software of the VMs; the usual one of the TPU if not given.")
    spot: bool = option(False, "Takes spot slices, which are cheaper and may be taken away.")
    reserved: bool = option(False, "Takes slices of a reservation.")
    setup: str | None = option(None, "Shell commands for every fresh host: mount the run's disk, get code, install it.")
    folder: str | None = option(None, "The folder of the code on the hosts, from the home folder; cairn if not given.")
    max_restarts: int = option(100, "How many times the run is continued on other slices.")

    def text(self, job: Job) -> str:
        """See `Engine`: the script."""
        cluster = self.cluster
        kind = vm_type(cluster)
        runtime = self.runtime_version or ACCELERATORS[cluster.chip.name].runtime
        if runtime is None:
            raise UserError(
                f"--runtime_version is missing: gcloud compute tpus tpu-vm versions list --zone={self.zone or 'ZONE'} "
                f"lists those for {cluster.chip.name}"
            )
        if self.zone is None:
            raise UserError("--zone is missing: where are the TPUs? Such as --zone=us-east5-a")
        if self.setup is None:
            raise UserError(
                "--setup is missing: the hosts are fresh; such as --setup='sudo mount 10.0.0.2:/runs /runs && "
                "git clone https://example.org/cairn.git && pip install -e cairn[tpu]'"
            )
        if self.spot and self.reserved:
            raise UserError("--spot and --reserved exclude each other; give one")
        if is_remote(job.run) or not job.run.startswith("/"):
            raise UserError(f"--run={job.run}: give the absolute path of a folder that all hosts mount, as /runs/one")
        place = [f"--zone={self.zone}", *([] if self.project is None else [f"--project={self.project}"])]
        resources = ["gcloud", "compute", "tpus", "queued-resources"]
        nodes = [f"--node-id={job.name}"] if self.slices == 1 else [f"--node-count={self.slices}"]
        tier = [flag for flag, given in (("--spot", self.spot), ("--reserved", self.reserved)) if given]
        create = [*resources, "create", job.name, *place, f"--accelerator-type={kind}", f"--runtime-version={runtime}"]
        describe = [*resources, "describe", job.name, *place, "--format=value(state.state)"]
        delete = [*resources, "delete", job.name, *place, "--force", "--quiet"]
        ssh = [*_ssh(cluster), job.name, *place, *([] if cluster.slices == 1 else ["--node=all"]), "--worker=all"]
        train = f"cd {shlex.quote(self.folder or 'cairn')} && {shlex.join(job.command('python3'))}"
        statuses = "|".join(map(str, [*RESTART_STATUSES, _SSH_LOST]))
        left = f"the slices are still there; to delete them: {shlex.join(delete)}"
        return f"""\
set -u
trap {shlex.quote(f"echo {shlex.quote(left)} >&2; exit 130")} INT TERM
for restart in $(seq 0 {self.max_restarts}); do
    {lines_of([*create, *nodes, *tier], "        ")} || exit
    while state=$({shlex.join(describe)}); [ "$state" != ACTIVE ]; do
        case "$state" in
        FAILED|SUSPENDING|SUSPENDED) status={_SSH_LOST}; break ;;
        esac
        sleep 30
    done
    if [ "$state" = ACTIVE ]; then
        {lines_of([*ssh, f"--command={self.setup}"], "            ")} &&
            {lines_of([*ssh, f"--command={train}"], "                ")}
        status=$?
    fi
    {shlex.join(delete)}
    case "$status" in
    {statuses}) ;;
    *) break ;;
    esac
done
exit "$status"
"""

    def submit(self, job: Job) -> int:
        """See `Engine`. Returns when the run has ended; the output of all hosts is that of this command."""
        script = self.text(job)
        require_program("gcloud", "install it: https://cloud.google.com/sdk/docs/install")
        return subprocess.run(["bash", "-c", script], check=False).returncode


def _ssh(cluster: Cluster) -> list[str]:
    """The command that reaches all hosts at once. Raises UserError where gcloud has none."""
    if cluster.slices == 1:
        return ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]
    if (hosts := hosts_of(cluster) * cluster.slices) > _MOST_HOSTS:
        raise UserError(
            f"{cluster} has {hosts} hosts, and gcloud reaches at most {_MOST_HOSTS} of several slices at once; take "
            "--to=gke, fewer slices, or a single larger one"
        )
    return ["gcloud", "compute", "tpus", "queued-resources", "ssh"]
