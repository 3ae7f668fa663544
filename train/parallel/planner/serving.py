"""Whether a model fits for inference on a cluster, and the bounds on its speed: weights by format, caches, prefill.

At every step of decoding each device reads once its part of the weights that some row needs and of all rows' caches.
No kernel is faster than that: bytes / memory rate bounds the time of a step (Pope et al. 2022, "Efficiently Scaling
Transformer Inference", section 2). So do operations / peak and, where the mesh splits weights that every device needs,
the bytes that devices send each other / link rate. Prefill is bound by its operations. The caches are those that the
mixers themselves make (`empty_cache`), so that grouped heads, windows, latents and recurrent states count as they are.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax

from model.attention.cache import AttentionCache
from model.config import ModelConfig
from model.cost import forward_flops
from model.errors import UserError
from model.feedforward.experts import Experts
from model.layers import by_stack, group_layers
from model.layout import Axes, Layout
from model.parameters.specs import Spec
from model.stack import empty_caches
from model.transformer import abstract_params, logical_axes, specs
from model.vocabulary.embedding import Tied
from train.parallel.mesh import MESH_AXES, Mesh, num_devices
from train.parallel.planner.chips import Cluster, Torus
from train.parallel.planner.job import BYTES
from train.parallel.table import MeshLayout, Sharding, layout_of, param_shardings

# Bytes of a number of a matrix: int8 with a bfloat16 scale for each column, int4 with one for each 128 numbers.
FORMATS = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
GROUP = 128
MANY_TOKENS = 1 << 24  # where a search for the longest context ends
GATHERED = ("embed", "rank")  # axes of parameters whose parts every device gathers, since activations keep them whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How one parameter lies on the devices.

    Attributes:
      ways: the parts that devices store.
      gathered: how many of these parts a device gathers when it uses the parameter.
    """

    ways: int = 1
    gathered: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a model in one format, in bytes of a device.

    Attributes:
      stored: all that a device holds.
      read: the bytes that one step of decoding reads.
      received: the bytes that other devices send to this one in a step.
    """

    stored: float
    read: float
    received: float = 0.0


class Devices:
    """The devices of a cluster: with a mesh, arrays are split by the sharding table, and without, all evenly.

    Attributes:
      cluster: the chips.
      option, table: how the devices are laid out, None for an even split of all arrays; and the sharding table.
      layout: both together; None for an even split.
      count: the devices, of which a chip has one or two.
    """

    def __init__(self, cluster: Cluster, mesh: Mesh | None = None, table: Sharding | None = None) -> None:
        """Args: see the attributes; `mesh` is `option`. Raises UserError if it does not multiply to the devices."""
        self.cluster, self.option, self.table = cluster, mesh, table or Sharding()
        self.layout: MeshLayout | None = None
        self.count = cluster.chips * cluster.chip.devices
        if mesh is None:
            return
        if mesh.data is None:
            mesh = dataclasses.replace(mesh, data=max(1, self.count // num_devices(mesh)))
        if num_devices(mesh) != self.count:
            raise UserError(
                f"--mesh={self.mesh_name} does not multiply to the {self.count:,} devices of {cluster}; "
                f"for example --mesh=tensor={self.count}"
            )
        abstract: Any = jax.sharding.AbstractMesh(tuple(getattr(mesh, name) for name in MESH_AXES), MESH_AXES)
        self.layout = layout_of(abstract, self.table)

    @property
    def mesh_name(self) -> str | None:
        """The mesh as the flag names it; None for an even split."""
        if self.option is None:
            return None
        sizes = {name: getattr(self.option, name) for name in MESH_AXES}
        return ",".join(f"{name}={size}" for name, size in sizes.items() if size not in (1, None)) or "data"

    @property
    def memory(self) -> float:
        """Bytes of one device."""
        return self.cluster.chip.hbm / self.cluster.chip.devices

    @property
    def memory_rate(self) -> float:
        """Bytes a second between the memory of a device and itself."""
        return self.cluster.chip.hbm_rate / self.cluster.chip.devices

    @property
    def link_rate(self) -> float:
        """Bytes a second that a device receives: over a torus from both neighbours of a ring."""
        network, chip = self.cluster.chip.interconnect, self.cluster.chip
        if isinstance(network, Torus):
            return 2 * network.link / chip.devices
        return (network.link if self.cluster.shape[-1] == self.cluster.chips else chip.network) / chip.devices

    def operation_rate(self, number_format: str) -> float:
        """Operations a second of one device; weights in 8 or 4 bits are multiplied as bfloat16."""
        chip = self.cluster.chip
        float32 = chip.float32 if number_format == "float32" else None
        return (chip.rate("bf16") if float32 is None else float32) / chip.devices

    @property
    def row_ways(self) -> int:
        """How many ways rows are split: a batch is filled up to a multiple of it."""
        return 1 if self.layout is None else self.layout.ways("batch")

    def splits(self, config: ModelConfig) -> Any:
        """Returns the `Split` of every parameter. Raises UserError if the mesh does not divide a parameter."""
        tree = abstract_params(config)
        if self.layout is None:
            return jax.tree.map(lambda _: Split(ways=self.count), tree)
        axes, sizes = logical_axes(config), self.layout.mesh.shape

        def split(sharding: jax.sharding.NamedSharding, names: tuple[str, ...]) -> Split:
            over = [(part,) if isinstance(part, str) else part or () for part in sharding.spec]
            ways = [math.prod(sizes[axis] for axis in part) for part in over]
            gathered = [n for n, name in zip(ways, names, strict=False) if name in GATHERED]
            return Split(ways=math.prod(ways), gathered=math.prod(gathered))

        placements = param_shardings(self.layout.mesh, self.table, axes, tree)
        return jax.tree.map(split, placements, axes)

    def cache_bytes(self, config: ModelConfig, rows: int, length: int) -> float:
        """Returns the bytes of a device of the caches and states of `rows` rows with `length` tokens each."""
        if self.layout is None:
            return rows * row_bytes(config, length) / self.count
        found = _Shards(self.layout)
        for cache in _caches(config, -(-rows // self.row_ways) * self.row_ways, length).values():
            cache.sharded(found)
        return sum(found.bytes)


@dataclasses.dataclass(frozen=True)
class _Shards(Layout):
    """A layout that notes the bytes of a device of the arrays that it lays out; they need only have shapes."""

    layout: MeshLayout
    bytes: list[float] = dataclasses.field(default_factory=list)

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """Returns x, and notes the bytes of a device."""
        ways = math.prod(sharding.ways for sharding in self.layout.axis_shardings(x.shape, axes))
        self.bytes.append(math.prod(x.shape) * x.dtype.itemsize / ways)
        return x


def weights_of(config: ModelConfig, number_format: str, rows: int, devices: Devices | None = None) -> Weights:
    """Counts the weights for inference of `rows` rows at a time, of one device; without `devices` of one that has all.

    Only matrices of layers and of the logits are quantised; routers, tables of tokens, norms and biases are not. Of
    experts a step reads those that at least one row chose, if all are chosen alike.
    """
    stored = read = received = 0.0
    for leaf, spec, experts, split in _parameters(config, devices):
        size = math.prod(leaf.shape) * _width(config, leaf, spec, number_format)
        stored += size / split.ways
        if spec.role in ("embedding", "position") and not (
            spec.role == "embedding" and isinstance(config.unembedding, Tied)
        ):
            continue  # looked up
        chosen = 1.0
        if experts is not None and "expert" in spec.axes and spec.role != "router":
            chosen = 1 - (1 - experts.top_k / experts.num_experts) ** rows
        used = size * chosen * split.gathered / split.ways
        read += used
        received += used * (1 - 1 / split.gathered)
    return Weights(stored=stored, read=read, received=received)


def _parameters(
    config: ModelConfig, devices: Devices | None
) -> Iterator[tuple[jax.ShapeDtypeStruct, Spec, Experts | None, Split]]:
    """Yields every parameter that inference uses, its spec, the experts that it belongs to, and how it is split."""
    tree, table = abstract_params(config), specs(config)
    splits = jax.tree.map(lambda _: Split(), tree) if devices is None else devices.splits(config)
    groups = group_layers(config.layers)
    stacks, stack_specs, stack_splits = (by_stack(each["blocks"], groups) for each in (tree, table, splits))
    for group in groups:
        for name, layer in zip(group.stack_names, group.pattern, strict=True):
            experts = layer.ffn if isinstance(layer.ffn, Experts) else None
            for leaf, spec, split in _leaves(stacks[name], stack_specs[name], stack_splits[name]):
                yield leaf, spec, experts, split
    for part in tree.keys() - {"blocks", "multi_token"}:
        for leaf, spec, split in _leaves(tree[part], table[part], splits[part]):
            yield leaf, spec, None, split


def _leaves(*trees: Any) -> Iterator[tuple[Any, ...]]:
    return zip(*map(jax.tree.leaves, trees), strict=True)


def _width(config: ModelConfig, leaf: jax.ShapeDtypeStruct, spec: Spec, number_format: str) -> float:
    """Returns the bytes of one number of a parameter, its share of a scale included; a quantised one stays as it is."""
    if spec.format != "float":
        return float(leaf.dtype.itemsize)
    if spec.traits.compute_dtype == "float32" or number_format == "float32":
        return 4.0
    if not spec.inputs or (spec.role == "embedding" and not isinstance(config.unembedding, Tied)):
        return float(min(BYTES[config.precision.compute], BYTES[config.precision.parameters]))
    inputs = math.prod(leaf.shape[axis] for axis in spec.inputs)
    scale = {"bfloat16": 0.0, "int8": 2 / inputs, "int4": 2 / min(GROUP, inputs)}[number_format]
    return FORMATS[number_format] + scale


@functools.lru_cache(maxsize=256)
def _caches(config: ModelConfig, rows: int, length: int) -> dict[str, Any]:
    """Returns the shapes of the caches of all layers."""
    return jax.eval_shape(lambda: empty_caches(config, rows, length))


def row_bytes(config: ModelConfig, length: int) -> int:
    """Returns the bytes of the caches and states of one row that has `length` tokens."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(_caches(config, 1, length)))


def token_bytes(config: ModelConfig, length: int) -> int:
    """Returns the bytes that the caches of a row grow by with token number `length`."""
    return row_bytes(config, length) - (row_bytes(config, length - 1) if length > 1 else 0)


def kinds_of_caches(config: ModelConfig, length: int) -> dict[str, tuple[int, int]]:
    """Returns the number of layers and the bytes of a row by kind of cache."""
    found: dict[str, tuple[int, int]] = {}
    for cache in _caches(config, 1, length).values():
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        kind = f"{type(cache).__name__}" + (f" of {cache.length:,} slots" if isinstance(cache, AttentionCache) else "")
        layers, before = found.get(kind, (0, 0))
        found[kind] = layers + 1, before + size
    return found


def longest_context(config: ModelConfig, rows: int, room: float, devices: Devices) -> int:
    """Returns the most tokens that each of `rows` rows can have in `room` bytes of caches of a device; 0 for none."""
    low, high = 0, 1
    while high < MANY_TOKENS and devices.cache_bytes(config, rows, high) <= room:
        low, high = high, 2 * high
    if high >= MANY_TOKENS:
        return MANY_TOKENS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if devices.cache_bytes(config, rows, middle) <= room else (low, middle)
    return low


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """The bounds on one step of decoding.

    Attributes:
      rows: the rows that decode, on all devices.
      fits: whether weights and caches fit.
      weights, caches, received: bytes of a device: weights and caches that it reads, weights that it receives.
      seconds: by limit: "memory", "network" and "operations".
    """

    rows: int
    fits: bool
    weights: float
    caches: float
    received: float
    seconds: dict[str, float]

    @property
    def limit(self) -> str:
        """The limit that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def row_rate(self) -> float:
        """Tokens a second of a row."""
        return 1 / self.seconds[self.limit]

    def as_json(self) -> dict[str, Any]:
        """Returns all values, for JSON."""
        rates = {"limit": self.limit, "tokens_per_second_of_a_row": self.row_rate}
        return dataclasses.asdict(self) | rates | {"tokens_per_second": self.rows * self.row_rate}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InFormat:
    """Inference with the matrices in one format.

    Attributes:
      number_format: the format.
      stored: bytes of the weights on a device.
      needed: the same with caches and logits of all rows.
      most_rows: the rows of the context that fit.
      longest: the longest context of the rows that fits; `MANY_TOKENS` for any.
      steps: the bounds on decoding, for several numbers of rows.
      prefill_seconds: the bound on reading one row's context.
      prefill_rate: the bound on tokens read a second, on all devices.
    """

    number_format: str
    stored: float
    needed: float
    most_rows: int
    longest: int
    steps: tuple[Step, ...]
    prefill_seconds: float
    prefill_rate: float


def in_format(
    config: ModelConfig, devices: Devices, number_format: str, rows: int, context: int, batches: tuple[int, ...]
) -> InFormat:
    """Returns the numbers of inference of `rows` rows of `context` tokens, and the bounds for each of `batches`."""
    weights, ways = weights_of(config, number_format, rows, devices), devices.row_ways

    def without_caches(rows: int) -> float:
        held = -(-rows // ways) if devices.layout else rows / devices.count
        return weights.stored + 4.0 * held * config.vocab_size

    def needed(rows: int) -> float:
        return without_caches(rows) + devices.cache_bytes(config, rows, context)

    left = devices.memory - without_caches(rows)
    row_group = devices.cache_bytes(config, ways, context)
    flops = forward_flops(config, context) - config.unembedding.cost(
        config.width if config.embedding_width is None else config.embedding_width, config.vocab_size, context - 1
    )
    rate = devices.operation_rate(number_format)
    return InFormat(
        number_format=number_format,
        stored=weights.stored,
        needed=needed(rows),
        most_rows=max(0, int(left // row_group)) * ways,
        longest=longest_context(config, rows, left, devices),
        steps=tuple(_step(config, devices, number_format, n, context, needed(n) <= devices.memory) for n in batches),
        prefill_seconds=flops / (rate * devices.count / ways),
        prefill_rate=context * rate * devices.count / flops,
    )


def _step(config: ModelConfig, devices: Devices, number_format: str, rows: int, context: int, fits: bool) -> Step:
    weights, caches = weights_of(config, number_format, rows, devices), devices.cache_bytes(config, rows, context)
    flops = forward_flops(config, context) - (forward_flops(config, context - 1) if context > 1 else 0)
    filled = -(-rows // devices.row_ways) * devices.row_ways
    return Step(
        rows=rows,
        fits=fits,
        weights=weights.read,
        caches=caches,
        received=weights.received,
        seconds={
            "memory": (weights.read + caches) / devices.memory_rate,
            "network": weights.received / devices.link_rate,
            "operations": filled * flops / (devices.operation_rate(number_format) * devices.count),
        },
    )
