"""The search for a plan: meshes, layouts of the stream, rematerialisation, micro-batches, batches; fastest first.

Every candidate is an experiment with some fields changed. The analytic model leaves out those that do not fit into the
memory and ranks the others by tokens a second; the best few are compiled, and then the compiler's memory decides.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from model.errors import UserError
from model.interfaces import AttentionOption
from model.options.tree import find_problems
from model.recompute import Remat, SaveOnly
from model.stages.pipeline import problems_of_stages
from train.experiment import Experiment
from train.parallel.mesh import MESH_AXES, Mesh
from train.parallel.planner.chips import Cluster
from train.parallel.planner.compiled import CompiledStep
from train.parallel.planner.job import AXES, Job, check_job, check_parameters, job_of, ways_of
from train.parallel.planner.loads import Loads, loads_of
from train.parallel.planner.memory import memory_of
from train.parallel.planner.step_time import time_of
from train.parallel.planner.work import kept_by

# From the policy that keeps least for the backward pass to the one that keeps most.
REMATS: tuple[Remat, ...] = (
    "full",
    SaveOnly(taps=("mixer_output",)),
    SaveOnly(taps=("query", "key", "value")),
    SaveOnly(taps=("query", "key", "value", "mixer_output")),
    "dots",
    "none",
)
MOST_PARTS = 16  # micro-batches, stages, tensor parts
FEWEST_TOKENS = 512  # of a part of a sequence: attention works on tiles of this size
COMPILERS = 2  # programs that are compiled at a time: each takes about 2 GB of memory
SAME_SPEED = 0.02  # the model does not tell step times apart that differ by less; the simpler mesh goes first
ROOM = 0.95  # of the memory: the count of arrays can be too low


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A choice, and what the analytic model says of it.

    Attributes:
      job: as the model sees it.
      remat: the rematerialisation.
      mesh: devices along each axis of `job.AXES`.
      memory: counted bytes on a chip.
    """

    job: Job
    remat: Remat
    mesh: dict[str, int]
    memory: float

    @functools.cached_property
    def seconds(self) -> float:
        """The time of a step."""
        return time_of(self._loads, self.job.cluster.chip, self.job.cluster.slices).total

    @functools.cached_property
    def _loads(self) -> Loads:
        return loads_of(self.job)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation."""
        return self._loads.model_flops / self.job.cluster.chip.rate(self.job.number_format) / self.seconds

    @property
    def speed(self) -> float:
        """Tokens a second on a chip."""
        return self.job.tokens / self.seconds / self.job.cluster.chips

    @property
    def order(self) -> tuple[int, int, float]:
        """The key of the ranking: speed in steps of `SAME_SPEED`, then the number of axes, then memory."""
        axes = sum(size > 1 for size in self.mesh.values())
        return round(-math.log(self.speed) / SAME_SPEED), axes + (self.job.microbatches > 1), self.memory

    def settings(self, base: Experiment) -> list[str]:
        """Returns the flags that make this candidate of an experiment."""
        mesh = ",".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "data=1"
        changes: dict[str, int | str] = {}
        if self.remat != base.model.remat:
            changes["model.remat"] = self.remat if isinstance(self.remat, str) else f"'{_written(self.remat)}'"
        if self.job.batch != base.data.batch_size:
            changes["data.batch_size"] = self.job.batch
        if self.job.microbatches != base.training.gradient_accumulation:
            changes["training.gradient_accumulation"] = self.job.microbatches
        if self.job.stream_split != ("tensor" in base.sharding.activations.sequence):
            changes["sharding.activations.sequence"] = f'"{_stream(base, self.job.stream_split)}"'
        return [f"--mesh={mesh}", *(f"--set {path}={value}" for path, value in changes.items())]

    def experiment(self, base: Experiment) -> Experiment:
        """Returns the experiment, for the compiler."""
        activations = dataclasses.replace(base.sharding.activations, sequence=_stream(base, self.job.stream_split))
        return dataclasses.replace(
            base,
            model=dataclasses.replace(base.model, remat=self.remat),
            data=dataclasses.replace(base.data, batch_size=self.job.batch),
            training=dataclasses.replace(base.training, gradient_accumulation=self.job.microbatches),
            mesh=Mesh(**{axis: self.mesh[axis] for axis in MESH_AXES}),
            sharding=dataclasses.replace(base.sharding, activations=activations),
        )


def _written(remat: SaveOnly) -> str:
    inside = ", ".join(f'"{tap}"' for tap in remat.taps)
    return f"SaveOnly(taps=({inside},))"


def _stream(base: Experiment, split: bool) -> tuple[str, ...]:
    """The mesh axes of the stream's positions, with `tensor` among them or not."""
    others = tuple(axis for axis in base.sharding.activations.sequence if axis != "tensor")
    return (*others, "tensor") if split else others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What was found.

    Attributes:
      tried: the number of candidates that divide the job.
      fitting: those that fit by the analytic model, the best first.
      smallest: the candidate that takes least memory; None where no mesh divides the job.
    """

    tried: int
    fitting: tuple[Candidate, ...]
    smallest: Candidate | None


def search(
    experiment: Experiment,
    cluster: Cluster,
    batches: Sequence[int] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Search:
    """Ranks all candidates by the analytic model.

    Args:
      experiment: the checked experiment; its mesh is not read.
      cluster: the chips.
      batches: the values of data.batch_size to try; its own if empty.
      on_progress: called with the number of meshes that are done, and of all.
    """
    base = _job_without_mesh(experiment, cluster)
    meshes = list(_meshes(experiment, base, cluster))
    remats = _remats(experiment)
    tried, fitting, smallest = 0, [], None
    for number, mesh in enumerate(meshes):
        on_progress(number, len(meshes))
        for batch, remat in itertools.product(batches or (experiment.data.batch_size,), remats):
            for candidate in _candidates(base, mesh, batch, remat):
                tried += 1
                if smallest is None or candidate.memory < smallest.memory:
                    smallest = candidate
                if candidate.memory <= ROOM * cluster.chip.hbm:
                    fitting.append(candidate)
    on_progress(len(meshes), len(meshes))
    return Search(tried=tried, fitting=tuple(sorted(fitting, key=lambda each: each.order)), smallest=smallest)


def _job_without_mesh(experiment: Experiment, cluster: Cluster) -> Job:
    one = dataclasses.replace(cluster, shape=(1,) * len(cluster.shape), slices=1)
    single = Mesh(fsdp=cluster.chip.devices)
    accumulated = dataclasses.replace(experiment.training, gradient_accumulation=1)
    job = job_of(dataclasses.replace(experiment, mesh=single, training=accumulated), one)
    return dataclasses.replace(job, cluster=cluster)


def _meshes(experiment: Experiment, base: Job, cluster: Cluster) -> Iterator[dict[str, int]]:
    """Yields the meshes, in devices, that divide the parameters of a model."""
    routed = any(product.routed for layer in base.work.layers for product in layer.products)
    limits = {
        "expert": math.inf if routed else 1,
        "stage": MOST_PARTS,
        "tensor": MOST_PARTS,
        "context": max(1, base.work.length // FEWEST_TOKENS),
    }
    for sizes in _factorizations(cluster.chips * cluster.chip.devices, len(AXES)):
        mesh = dict(zip(AXES, sizes, strict=True))
        if any(mesh[axis] > limit for axis, limit in limits.items()) or mesh["data"] % cluster.slices:
            continue
        if not _runs_in_stages(experiment, mesh["stage"]):
            continue
        try:
            check_parameters(experiment, mesh)
        except UserError:
            continue
        yield mesh


def _runs_in_stages(experiment: Experiment, stages: int) -> bool:
    """Whether a model can run in so many stages, or needs none and is not cut into chunks for them."""
    chunks = experiment.sharding.chunks
    return chunks == 1 if stages == 1 else not list(problems_of_stages(experiment.model, stages, chunks))


def _factorizations(number: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            yield from ((first, *rest) for rest in _factorizations(number // first, parts - 1))


def _remats(experiment: Experiment) -> list[Remat]:
    """The policies that the model can have, its own among them."""
    attends = all(isinstance(layer.mixer, AttentionOption) for layer in experiment.model.layers)
    found = [remat for remat in REMATS if isinstance(remat, str) or attends]
    found = [r for r in found if not list(find_problems(dataclasses.replace(experiment.model, remat=r)))]
    own = experiment.model.remat
    return found if own in found else [own, *found]


def _candidates(base: Job, mesh: dict[str, int], batch: int, remat: Remat) -> Iterator[Candidate]:
    """Yields the candidates of a mesh with the fewest micro-batches that fit, for each layout of the stream."""
    try:
        ways = ways_of(dict(mesh), base.cluster)
    except UserError:
        return
    splits = (False, True) if mesh["tensor"] > 1 else (False,)
    for split in splits:
        for parts in _parts(batch, ways.rows, ways.stage):
            job = dataclasses.replace(
                base, ways=ways, batch=batch, kept=kept_by(remat), microbatches=parts, stream_split=split
            )
            try:
                check_job(job)
            except UserError:
                continue
            memory = memory_of(job).total
            yield Candidate(job=job, remat=remat, mesh=mesh, memory=memory)
            if memory <= ROOM * job.cluster.chip.hbm and ways.stage == 1:
                break  # more micro-batches are slower


def _parts(batch: int, rows: int, stages: int) -> list[int]:
    if batch % rows:
        return []
    own = batch // rows
    return [
        parts
        for parts in range(1, own + 1)
        if own % parts == 0 and parts % stages == 0 and (parts <= MOST_PARTS or parts == own)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A candidate and what the compiler says; None where it was not asked, or the error."""

    candidate: Candidate
    step: CompiledStep | None = None
    error: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it fits: by the compiler where it was asked, or else by the analytic model."""
        chip = self.candidate.job.cluster.chip
        return self.error is None and (self.step is None or self.step.peak <= chip.hbm / chip.devices)


def compile_best(
    experiment: Experiment,
    found: Sequence[Candidate],
    wanted: int,
    compile_step: Callable[[Experiment], CompiledStep],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Compiled]:
    """Compiles the best candidates until `wanted` of them fit, at most three times as many; two at a time.

    Returns them by rank, those that fit first.
    """
    possible = found[: 3 * wanted]

    def one(candidate: Candidate) -> Compiled:
        try:
            return Compiled(candidate=candidate, step=compile_step(candidate.experiment(experiment)))
        except UserError as error:
            return Compiled(candidate=candidate, error=str(error))

    done: list[Compiled] = []
    with ThreadPoolExecutor(COMPILERS) as pool:
        while sum(each.fits for each in done) < wanted and len(done) < len(possible):
            missing = wanted - sum(each.fits for each in done)
            for result in pool.map(one, possible[len(done) : len(done) + missing]):
                done.append(result)
                on_progress(sum(each.fits for each in done))
    return sorted(done, key=lambda each: (not each.fits, each.candidate.order))
