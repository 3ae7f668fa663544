"""A training job: the work of a model, the cluster, and how the work is split over the cluster's chips."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax

from model.attention.heads import divisors
from model.errors import UserError
from model.parameters.precision import Dtype
from model.transformer import abstract_params, logical_axes
from train.experiment import Experiment
from train.optimizers.options import SGD, Adafactor, Lion, Muon
from train.parallel.mesh import MESH_AXES, Mesh
from train.parallel.planner.chips import Cluster
from train.parallel.planner.work import ModelWork, kept_by, work_of
from train.parallel.table import param_shardings

AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
# Numbers that an optimizer keeps for each parameter.
_MOMENTS = {SGD: 1, Lion: 1, Muon: 1, Adafactor: 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ways:
    """How many ways each axis of the mesh splits the work, counted in chips.

    Attributes:
      data: copies of the parameters, each with its rows of the batch.
      fsdp: parts of parameters, gathered layer by layer, each with its rows.
      tensor: parts of heads, feed-forward width and vocabulary.
      context: parts of every sequence; it splits parameters as fsdp does.
      expert: parts of the experts, each with its rows; it splits all other parameters as fsdp does.
      stage: parts of the layers, in a pipeline.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    stage: int = 1

    @property
    def chips(self) -> int:
        """The product of all axes."""
        return math.prod(dataclasses.astuple(self))

    @property
    def rows(self) -> int:
        """How many ways the batch is split."""
        return self.data * self.fsdp * self.expert

    def __str__(self) -> str:
        named = [f"{name}={size}" for name, size in dataclasses.asdict(self).items() if size > 1]
        return ",".join(named) or "data=1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One training step on a cluster.

    Attributes:
      work: the model.
      cluster: the chips.
      ways: the mesh.
      batch: sequences of a step.
      microbatches: parts of a chip's rows that are processed one after the other (accumulation, or a pipeline).
      virtual_stages: chunks of layers of each pipeline stage (interleaved schedule).
      across_slices: the mesh axis that spans slices.
      stream_split: whether the axis `tensor` splits the residual stream too, along the sequence or the width.
      kept: products that a layer keeps for the backward pass (`work.KEPT`).
      number_format: of products with weights, except for logits.
      attention: "tiles" for the fastest kernel of the chip, "older tiles" for FlashAttention-2 on newer GPUs, "arrays"
        where scores are arrays of T x T in memory.
      context_kernel: whether that kernel takes the queries of a part of a sequence; otherwise they run in loops of XLA.
      parameter_bytes, gradient_bytes, compute_bytes: bytes of a number.
      moments: numbers that the optimizer keeps for each parameter, in the format of parameters.
      logits_limit: the most logits that a chip makes at once.
    """

    work: ModelWork
    cluster: Cluster
    ways: Ways
    batch: int
    microbatches: int = 1
    virtual_stages: int = 1
    across_slices: Literal["data", "fsdp", "stage"] = "data"
    stream_split: bool = True
    kept: frozenset[str] = frozenset()
    number_format: Literal["bf16", "fp8", "int8"] = "bf16"
    attention: Literal["tiles", "older tiles", "arrays"] = "tiles"
    context_kernel: bool = True
    parameter_bytes: int = 4
    gradient_bytes: int = 4
    compute_bytes: int = 2
    moments: int = 2
    logits_limit: int = 1 << 26

    @property
    def tokens(self) -> int:
        """The tokens of a step."""
        return self.batch * self.work.length

    @property
    def attention_loops(self) -> bool:
        """Whether attention runs in loops of XLA over tiles of scores (model/kernels/xla/tiles.py)."""
        return self.attention != "arrays" and self.ways.context > 1 and not self.context_kernel

    @property
    def chip_tokens(self) -> float:
        """The tokens of a step that one chip processes, in its share of layers and widths."""
        return self.tokens / (self.ways.rows * self.ways.context)


def check_job(job: Job) -> None:
    """Raises UserError when a mesh does not fit the cluster, or does not divide the job."""
    ways, work = job.ways, job.work
    if ways.chips != job.cluster.chips:
        raise UserError(
            f"mesh: {ways} has {ways.chips:,} parts, and {job.cluster} has {job.cluster.chips:,} chips; "
            f"change an axis, or the topology"
        )
    if job.cluster.slices > 1 and getattr(ways, job.across_slices) % job.cluster.slices:
        raise UserError(
            f"mesh: {job.across_slices}={getattr(ways, job.across_slices)} does not split over {job.cluster.slices} "
            f"slices; use a multiple"
        )
    heads = min((layer.attention.heads for layer in work.layers if layer.attention), default=ways.tensor)
    experts = min((p.copies for layer in work.layers for p in layer.products if p.routed), default=0)
    for axis, size, number, of in (
        ("rows", ways.rows * job.microbatches, job.batch, "sequences of the batch"),
        ("tensor", ways.tensor, heads, "heads"),
        ("context", ways.context, work.length, "tokens of a sequence"),
        ("stage", ways.stage * job.virtual_stages, work.num_layers, "layers"),
        ("expert", ways.expert, experts, "experts"),
    ):
        if number == 0 and size > 1:
            raise UserError(f"mesh: {axis}={size}, and the model has no {of}; leave the axis out")
        if number % size or (number < size and size > 1):
            most = max(2, job.cluster.chips * job.cluster.chip.devices)
            fits = [str(divisor) for divisor in divisors(number) if divisor <= most][:24]
            parts = "data x fsdp x expert x micro-batches" if axis == "rows" else axis
            raise UserError(f"mesh: {parts}={size} does not divide the {number:,} {of}; {', '.join(fits)} would")


def check_parameters(experiment: Experiment, sizes: Mapping[str, int | None]) -> None:
    """Raises UserError when a mesh, in devices, does not divide a parameter by the sharding table."""
    mesh = jax.sharding.AbstractMesh(tuple(sizes.get(axis) or 1 for axis in MESH_AXES), MESH_AXES)
    model = experiment.model
    param_shardings(mesh, experiment.sharding, logical_axes(model), abstract_params(model))


def ways_of(sizes: Mapping[str, int | None], cluster: Cluster) -> Ways:
    """Returns the mesh of an option, whose axes count devices, in chips; `data` None takes what the others leave.

    The devices of one chip share its links, so they count as parts of the largest axis. Raises UserError if the axes
    do not multiply to the devices of the cluster.
    """
    devices = cluster.chips * cluster.chip.devices
    known = {name: sizes.get(name, 1) for name in AXES}
    others = math.prod(size for size in known.values() if size is not None)
    if known["data"] is None:
        known["data"] = devices // others if devices % others == 0 else 1
    counted = {name: size or 1 for name, size in known.items()}
    if math.prod(counted.values()) != devices:
        listed = ",".join(f"{name}={size}" for name, size in counted.items() if size > 1)
        raise UserError(
            f"mesh: {listed or 'data=1'} does not multiply to the {devices:,} devices of {cluster}; "
            f"for example --mesh=fsdp={devices}"
        )
    largest = max(counted, key=lambda name: (counted[name], name in ("data", "fsdp")))
    if counted[largest] % cluster.chip.devices == 0:
        counted[largest] //= cluster.chip.devices
    return Ways(**counted)


def mesh_for(option: Mesh, cluster: Cluster) -> Mesh:
    """Returns a config's mesh if it names axes that fit the cluster, or else FSDP over each slice."""
    if option != Mesh():
        try:
            ways_of(dataclasses.asdict(option), cluster)
        except UserError:
            pass
        else:
            return option
    return Mesh(data=cluster.slices, fsdp=math.prod(cluster.shape) * cluster.chip.devices)


def job_of(experiment: Experiment, cluster: Cluster) -> Job:
    """Returns the job of an experiment on a cluster. Raises UserError if the mesh does not fit."""
    precision, optimizer = experiment.model.precision, experiment.optimizer
    job = Job(
        work=work_of(experiment.model, experiment.data.sequence_length),
        cluster=cluster,
        ways=ways_of(dataclasses.asdict(experiment.mesh), cluster),
        batch=experiment.data.batch_size,
        microbatches=experiment.training.gradient_accumulation,
        virtual_stages=experiment.sharding.chunks,
        stream_split="tensor" in experiment.sharding.activations.sequence + experiment.sharding.activations.embed,
        kept=kept_by(experiment.model.remat),
        # Splash takes parts of a sequence, if their keys are gathered; no kernel on GPUs does.
        context_kernel=cluster.is_tpu and not experiment.sharding.activations.key_sequence,
        parameter_bytes=BYTES[precision.parameters],
        gradient_bytes=BYTES[precision.gradients],
        compute_bytes=BYTES[precision.compute],
        moments=_MOMENTS.get(type(optimizer), 2),
    )
    check_job(job)
    check_parameters(experiment, dataclasses.asdict(experiment.mesh))
    return job
