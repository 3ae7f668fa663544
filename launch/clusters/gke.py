"""Kubernetes on GKE: a JobSet, a job for each TPU slice or one for all GPU nodes, a pod for each host.

The conventions are xpk's: node selectors for accelerator and topology, a node pool for each slice, no retries inside a
job, and a restart of the whole set after a failure that another try can mend. Pods of TPUs find each other by what GKE
tells them; pods of GPUs by the flags of launch.train and the DNS names that a JobSet gives to its pods.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from launch.clusters.accelerators import ACCELERATORS, OfTopology, chips_per_host, hosts_of
from launch.clusters.job import RESTART_STATUSES, Job, call, lines_of, option, require_program
from model.errors import UserError
from train.files.paths import is_remote
from train.parallel.planner.chips import Cluster

_PORT = 8476  # of process 0 of a job on GPUs
_WORKERS = "workers"
_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gke(OfTopology):
    """See the module."""

    NAME: ClassVar[str] = "gke"
    topology: str | None = option(None, "The accelerators, such as v5p:4x4x4 (a torus) or h100:8x8 (nodes x GPUs).")
    slices: int = option(1, "TPU slices of that topology.")
    image: str | None = option(None, "The container image, with the code and its packages.")
    namespace: str | None = option(None, "The namespace; that of the context if not given.")
    queue: str | None = option(None, "The Kueue queue of the job, such as multislice-queue.")
    claim: tuple[str, ...] = option((), "NAME:/PATH mounts a volume claim, such as that of the run; may be repeated.")
    service_account: str | None = option(None, "The Kubernetes service account of the pods.")
    max_restarts: int = option(100, "How many times the job is started again.")
    grace_seconds: int = option(300, "Seconds between SIGTERM and the end of a pod; spot nodes have fewer.")
    folder: str | None = option(None, "The folder of the code in the image; the image's own working folder if not.")

    def text(self, job: Job) -> str:
        """See `Engine`: the manifest."""
        import yaml

        return str(yaml.safe_dump(self.manifest(job), sort_keys=False, width=1000))

    def submit(self, job: Job) -> int:
        """See `Engine`. A JobSet of that name, so for that run, must not be there."""
        return self._create(job, self.text(job), "jobset", f"jobs/{job.name}-{_WORKERS}-0")

    def sweep_text(self, job: Job, jobs: Sequence[Job], at_once: int | None) -> str:
        """The manifests of many runs, `at_once` of them at a time; `job` gives them their name and their folder.

        Runs on one host each are one indexed job, in which a run that fails leaves the others alone. Runs on several
        hosts are a JobSet each, and all are started at once. Raises UserError as `text` does.
        """
        import yaml

        several = hosts_of(self.cluster) * self.cluster.slices > 1
        if several and at_once is not None:
            raise UserError(
                f"--jobs={at_once} has no effect: each run has several hosts, and the queue decides; see --queue"
            )
        manifests = [self.manifest(one) for one in jobs] if several else [self._indexed(job, jobs, at_once)]
        return str(yaml.safe_dump_all(manifests, sort_keys=False, width=1000))

    def submit_sweep(self, job: Job, jobs: Sequence[Job], at_once: int | None) -> int:
        """Creates what `sweep_text` says, and returns the exit status."""
        several = hosts_of(self.cluster) * self.cluster.slices > 1
        kind, log = ("jobset", f"jobs/{jobs[0].name}-{_WORKERS}-0") if several else ("job", f"jobs/{job.name}")
        return self._create(job, self.sweep_text(job, jobs, at_once), kind, log)

    def _indexed(self, job: Job, jobs: Sequence[Job], at_once: int | None) -> dict[str, Any]:
        """One indexed job on hosts of their own: index n is run n."""
        alone = (
            [] if self.cluster.is_tpu else [f"--coordinator=127.0.0.1:{_PORT}", "--num_processes=1", "--process_id=0"]
        )
        lines = ['case "$JOB_COMPLETION_INDEX" in']
        lines += [f"{index}) exec {lines_of([*one.command(), *alone])} ;;" for index, one in enumerate(jobs)]
        template = self.manifest(job)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        container = template["containers"][0]
        container["command"] = _escaped(["bash", "-c", "\n".join([*lines, "esac"])])
        for name in ("env", "ports"):  # by which the hosts of one run find each other
            container.pop(name, None)
        for name in ("hostNetwork", "dnsPolicy"):
            template.pop(name)
        codes = {"containerName": container["name"], "operator": "NotIn", "values": list(RESTART_STATUSES)}
        metadata = {name: value for name, value in self.manifest(job)["metadata"].items() if name != "annotations"}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "ttlSecondsAfterFinished": 86400,
                "completionMode": "Indexed",
                "completions": len(jobs),
                "parallelism": min(at_once or len(jobs), len(jobs)),
                "backoffLimitPerIndex": self.max_restarts,
                "podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": codes}]},
                "template": {"spec": template},
            },
        }

    def _create(self, job: Job, manifest: str, kind: str, log: str) -> int:
        require_program("kubectl", "install it: gcloud components install kubectl")
        done = call(["kubectl", "create", "--filename=-"], manifest)
        if "AlreadyExists" in done.stderr:
            raise UserError(
                f"the job {job.name} is there already, for a run with the folder name of {job.run}; delete it "
                f"(kubectl delete {kind} {job.name}), or give another --run"
            )
        if done.returncode:
            raise UserError(f"kubectl: {done.stderr.strip()}; --dry_run prints the manifest")
        print(f"{done.stdout.strip()}; its log: kubectl logs --follow {log}")
        return 0

    def manifest(self, job: Job) -> dict[str, Any]:
        """The JobSet. Raises UserError for a missing flag, and for a run folder that would end with its pod."""
        if self.image is None:
            raise UserError("--image is missing: a container image with the code and its packages")
        cluster, claims = self.cluster, [_parse_claim(text) for text in self.claim]
        if len({name for name, _ in claims}) < len(claims):
            raise UserError(f"--claim={claims[0][0]}: a volume claim is mounted once; name each once")
        if is_remote(job.run) or not any(job.run.startswith(f"{path.rstrip('/')}/") for _, path in claims):
            raise UserError(
                f"--run={job.run} is not on a volume that all pods share and that outlives them; give "
                "--claim=NAME:/runs (a volume claim for many writers, such as Filestore's) and --run=/runs/..."
            )
        annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        metadata: dict[str, Any] = {"name": job.name}
        metadata |= {} if self.namespace is None else {"namespace": self.namespace}
        metadata |= {} if self.queue is None else {"labels": {"kueue.x-k8s.io/queue-name": self.queue}}
        metadata |= {"annotations": annotations} if cluster.is_tpu else {}
        hosts = hosts_of(cluster)
        container = "train"
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": metadata,
            "spec": {
                "ttlSecondsAfterFinished": 86400,
                "network": {"enableDNSHostnames": True},
                "failurePolicy": {
                    "maxRestarts": self.max_restarts,
                    "rules": [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
                },
                "replicatedJobs": [
                    {
                        "name": _WORKERS,
                        "replicas": cluster.slices,
                        "template": {
                            "spec": {
                                "completionMode": "Indexed",
                                "parallelism": hosts,
                                "completions": hosts,
                                "backoffLimit": 0,
                                "podFailurePolicy": {"rules": [_no_other_try(container)]},
                                "template": {"spec": self._pod(job, cluster, container, claims)},
                            }
                        },
                    }
                ],
            },
        }

    def _pod(self, job: Job, cluster: Cluster, container: str, claims: list[tuple[str, str]]) -> dict[str, Any]:
        names = ACCELERATORS[cluster.chip.name]
        resource = "google.com/tpu" if cluster.is_tpu else "nvidia.com/gpu"
        if cluster.is_tpu:
            shape = "x".join(map(str, cluster.shape))
            selector = {
                "cloud.google.com/gke-tpu-accelerator": names.gke,
                "cloud.google.com/gke-tpu-topology": shape,
            }
        else:
            selector = {"cloud.google.com/gke-accelerator": names.gke}
        pod: dict[str, Any] = {"restartPolicy": "Never"}
        pod |= {} if self.service_account is None else {"serviceAccountName": self.service_account}
        return pod | {
            "nodeSelector": selector,
            "tolerations": [{"key": resource, "operator": "Exists"}],
            "hostNetwork": True,
            "dnsPolicy": "ClusterFirstWithHostNet",
            "terminationGracePeriodSeconds": self.grace_seconds,
            "containers": [
                {
                    "name": container,
                    "image": self.image,
                    **({} if self.folder is None else {"workingDir": self.folder}),
                    "command": _escaped([*job.command(), *(() if cluster.is_tpu else _meeting(job, cluster))]),
                    **self._ports_and_index(cluster),
                    "resources": {"limits": {resource: chips_per_host(cluster)}},
                    "volumeMounts": [
                        {"name": "shm", "mountPath": "/dev/shm"},
                        *({"name": name, "mountPath": path} for name, path in claims),
                    ],
                }
            ],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
                *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name, _ in claims),
            ],
        }

    @staticmethod
    def _ports_and_index(cluster: Cluster) -> dict[str, Any]:
        if cluster.is_tpu:
            return {"ports": [{"containerPort": 8471}, {"containerPort": 8080}]}
        index = {"fieldRef": {"fieldPath": f"metadata.annotations['{_INDEX}']"}}
        return {"ports": [{"containerPort": _PORT}], "env": [{"name": "PROCESS_ID", "valueFrom": index}]}


def _no_other_try(container: str) -> dict[str, Any]:
    """The rule that fails the job after a status that another try would not mend."""
    statuses = list(RESTART_STATUSES)
    codes = {"containerName": container, "operator": "NotIn", "values": statuses}
    return {"action": "FailJob", "onExitCodes": codes}


class _Reference(str):
    """A word that Kubernetes expands."""


def _meeting(job: Job, cluster: Cluster) -> list[str]:
    """The flags by which the processes on GPU nodes find each other; a single one is told that it is alone."""
    first = f"{job.name}-{_WORKERS}-0-0.{job.name}:{_PORT}"
    together = [f"--coordinator={first}", f"--num_processes={cluster.shape[0]}"]
    return [*together, _Reference("--process_id=$(PROCESS_ID)")]


def _escaped(words: list[str]) -> list[str]:
    """Words in which Kubernetes expands no $(NAME) but those of a `_Reference`."""
    return [str(word) if isinstance(word, _Reference) else word.replace("$", "$$") for word in words]


def _parse_claim(text: str) -> tuple[str, str]:
    name, _, path = text.partition(":")
    if not name or not path.startswith("/"):
        raise UserError(f"--claim={text}: expected NAME:/PATH, such as --claim=runs:/runs")
    return name, path
