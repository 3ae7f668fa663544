"""The names of accelerators on Google Cloud, and the slices that exist of them.

A topology is that of the planner: v5p:4x4x4 (a torus) or h100:8x8 (nodes x GPUs of a node).
"""

import math
from typing import NamedTuple

from model.errors import UserError
from train.parallel.planner.chips import CHIPS, Cluster, cluster_of, parse_cluster


class Accelerator(NamedTuple):
    """The names of a kind of chip.

    Attributes:
      gke: the value of the node label that GKE gives it.
      vm: TPU: the accelerator type on Cloud TPU VMs, before its number.
      cores: TPU: what that number counts on a chip.
      runtime: TPU: the usual software of a VM; None where Google names none.
    """

    gke: str
    vm: str = ""
    cores: int = 1
    runtime: str | None = None


# Labels: cloud.google.com/kubernetes-engine/docs/concepts/{tpus,gpus}. Types and software: cloud.google.com/tpu/docs.
ACCELERATORS = {
    "v4": Accelerator("tpu-v4-podslice", "v4", 2, "tpu-ubuntu2204-base"),
    "v5e": Accelerator("tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": Accelerator("tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5"),
    "v6e": Accelerator("tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e"),
    "v7x": Accelerator("tpu7x", "tpu7x", 2),
    "a100": Accelerator("nvidia-a100-80gb"),
    "h100": Accelerator("nvidia-h100-80gb"),
    "h200": Accelerator("nvidia-h200-141gb"),
    "b200": Accelerator("nvidia-b200"),
    "gb200": Accelerator("nvidia-gb200"),
}
_CHIPS_PER_HOST = 4
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))


def parse_topology(text: str | None, slices: int) -> Cluster:
    """The accelerators of --topology and --slices. Raises UserError for none, and for a slice that does not exist."""
    if text is None:
        raise UserError("--topology is missing: which accelerators? Try --topology=v5p:4x4x4 or --topology=h100:2x8")
    cluster = parse_cluster(text, slices)
    if not cluster.is_tpu or cluster.shape in _FLAT or cluster.shape in _SMALL:
        return cluster
    if len(cluster.shape) == 3 and all(size % 4 == 0 for size in cluster.shape):
        return cluster
    raise UserError(f"--topology={text}: there is no such slice; the nearest is {_nearest_slice(cluster)}")


def _nearest_slice(cluster: Cluster) -> str:
    """The slice with the number of chips nearest to a cluster's; a larger one rather than a smaller one."""
    if len(cluster.shape) == 2:
        shapes: list[tuple[int, ...]] = [*_FLAT]
    else:
        # Cubes of 4 x 4 x 4 near the wanted sizes.
        shapes = [*_SMALL, tuple(4 * max(1, math.ceil(size / 4)) for size in cluster.shape)]
    wanted = math.prod(cluster.shape)
    chosen = min(shapes, key=lambda shape: (abs(math.log(math.prod(shape) / wanted)), -math.prod(shape)))
    return f"{cluster.chip.name}:{'x'.join(map(str, chosen))}"


def hosts_of(cluster: Cluster) -> int:
    """The number of hosts of one slice, or of all GPU nodes."""
    return math.ceil(math.prod(cluster.shape) / _CHIPS_PER_HOST) if cluster.is_tpu else cluster.shape[0]


def chips_per_host(cluster: Cluster) -> int:
    """The number of chips of a host."""
    return min(_CHIPS_PER_HOST, math.prod(cluster.shape)) if cluster.is_tpu else cluster.shape[1]


def vm_type(cluster: Cluster) -> str:
    """The accelerator type of a slice on Cloud TPU VMs.

    Raises UserError for GPUs, and for a shape other than the one that Cloud TPU gives to that many chips.
    """
    chip = cluster.chip.name
    if not cluster.is_tpu:
        tpus = ", ".join(name for name, known in CHIPS.items() if known.kind == "tpu")
        raise UserError(f"--topology={cluster.topology}: {chip} is no TPU; Cloud TPU VMs have {tpus}")
    usual = cluster_of(chip, math.prod(cluster.shape))
    if sorted(usual.shape) != sorted(cluster.shape):
        raise UserError(
            f"--topology={cluster.topology}: Cloud TPU chooses the shape of a slice by its number of chips; for "
            f"{math.prod(cluster.shape)} chips take --topology={usual.topology}, or another shape by --to=gke"
        )
    return f"{ACCELERATORS[chip].vm}-{math.prod(cluster.shape) * ACCELERATORS[chip].cores}"


class OfTopology:
    """An engine whose accelerators are named by --topology and --slices."""

    topology: str | None
    slices: int

    @property
    def cluster(self) -> Cluster:
        """The accelerators."""
        return parse_topology(self.topology, self.slices)

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.cluster.chips * self.cluster.chip.devices
