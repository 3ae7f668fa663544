"""A SLURM cluster of two nodes on this machine: installs, starts and stops it.

    python -m tests.clusters.slurm_daemons install      # Debian and Ubuntu, as root
    python -m tests.clusters.slurm_daemons start        # prints the SLURM_CONF to export
    python -m tests.clusters.slurm_daemons stop

All files are in one folder, and the daemons have ports and a munge socket of their own, so that a cluster that this
machine belongs to is left alone. The nodes are named after two addresses of the loopback interface, because processes
find the first node by its name. The partition `high` preempts `low`.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

FOLDER = pathlib.Path("/tmp/cairn_slurm")
NODES = ("127.0.0.2", "127.0.0.3")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
GRACE_SECONDS = 60

CONF = """
ClusterName=cairn
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort=17817
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
ReturnToService=2
MpiDefault=none
{nodes}
PartitionName=low Nodes=ALL Default=YES OverSubscribe=EXCLUSIVE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes=ALL OverSubscribe=EXCLUSIVE PriorityTier=2 PreemptMode=OFF
"""


def install():
    """Installs SLURM and munge by apt, without starting a service."""
    if missing := [program for program in PROGRAMS if _path_of(program) is None]:
        print(f"installing slurm-wlm and munge: {', '.join(missing)} missing")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"],
        ):
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def start():
    """Starts the daemons in an empty folder, and returns the path of slurm.conf when both nodes are idle."""
    stop()
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "state").mkdir(parents=True)
    key = FOLDER / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    lines = [
        f"NodeName={name} NodeHostname={os.uname().nodename} NodeAddr={name} Port={17820 + number} CPUs=2 State=UNKNOWN"
        for number, name in enumerate(NODES)
    ]
    conf = FOLDER / "slurm.conf"
    user = "root" if os.getuid() == 0 else os.environ["USER"]
    text = CONF.format(host=os.uname().nodename, user=user, folder=FOLDER, nodes="\n".join(lines), grace=GRACE_SECONDS)
    conf.write_text(text)
    files = [
        f"--{name}={FOLDER}/munge.{name.removesuffix('-file')}"
        for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    daemons = [
        ["munged", "--force", f"--key-file={key}", *files],
        ["slurmctld", "-f", str(conf)],
        *(["slurmd", "-f", str(conf), "-N", name] for name in NODES),
    ]
    for daemon in daemons:
        subprocess.run([_path_of(daemon[0]), *daemon[1:]], check=True)
        time.sleep(1)
    environment = os.environ | {"SLURM_CONF": str(conf)}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%t"],
            env=environment,
            capture_output=True,
            text=True,
        )
        if listed.stdout.split() == ["idle"] * len(NODES):
            return conf
        time.sleep(1)
    raise SystemExit(f"the nodes are not idle after 60 s: {listed.stdout}{listed.stderr}; see the logs in {FOLDER}")


def stop():
    """Ends the jobs, and the daemons that `start` started, by the numbers in their files."""
    environment = os.environ | {"SLURM_CONF": str(FOLDER / "slurm.conf")}
    if (FOLDER / "slurmctld.pid").exists():
        for signal_flag in ("--signal=TERM", "--signal=KILL"):
            subprocess.run(["scancel", "--me", "--full", signal_flag], env=environment, capture_output=True, timeout=30)
            time.sleep(2)
    for file in sorted(FOLDER.glob("*.pid"), reverse=True):  # slurmd, slurmctld, munged
        try:
            number = int(file.read_text())
            name = pathlib.Path(f"/proc/{number}/comm").read_text().strip()
        except (OSError, ValueError):
            continue
        if name.startswith(("munged", "slurmctld", "slurmd")):
            os.kill(number, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while pathlib.Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
                time.sleep(0.1)


def _path_of(program):
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


if __name__ == "__main__":
    action = sys.argv[1] if len(sys.argv) == 2 else ""
    if action not in ("install", "start", "stop"):
        raise SystemExit(__doc__)
    conf = {"install": install, "start": start, "stop": stop}[action]()
    if conf is not None:
        print(f"export SLURM_CONF={conf}")
