"""The placement of experts and tokens on a mesh, and the gathering of the experts' parameters from their shards.

Experts, the feed-forward width and tokens are split as the sharding table says. Where a mesh axis splits both experts
and tokens, tokens travel along it to their experts; where it splits experts alone, its devices hold the same tokens and
each computes those of its own experts. Parameters are stored in more parts than they are computed in: each device
gathers what it needs inside the layer, in the format of activations, and its gradient is reduced in its own format.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from model.layout import Axes, AxisSharding, Layout

# The logical axes of the parameters of experts.
EXPERT_AXES: dict[str, tuple[str, ...]] = {
    "gate": ("expert", "embed", "ffn"),
    "up": ("expert", "embed", "ffn"),
    "down": ("expert", "ffn", "embed"),
    "gate_bias": ("expert", "ffn"),
    "up_bias": ("expert", "ffn"),
    "down_bias": ("expert", "embed"),
}

# The axes of a parameter that a device gathers: (position of the axis, mesh axes).
Gathered = tuple[tuple[int, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the experts and the tokens of a layer are.

    Attributes:
      tokens: the split of rows and of positions.
      experts: the split of experts.
      ffn: the split of the feed-forward width, whose devices hold the same tokens.
      parameters: how each parameter enters `shard_map`, by name.
      gathered: the axes that each device gathers, by the name of the parameter.
    """

    tokens: tuple[AxisSharding, AxisSharding]
    experts: AxisSharding
    ffn: AxisSharding
    parameters: Mapping[str, Axes]
    gathered: Mapping[str, Gathered]

    @classmethod
    def of(cls, layout: Layout, rows_and_length: tuple[int, ...], params: Mapping[str, jax.Array]) -> "Placement":
        """Returns the placement of a batch (B, T) and of parameters; an axis that the mesh does not divide is whole."""
        batch, sequence = layout.axis_shardings(rows_and_length, ("batch", "ffn_sequence"))
        split_tokens = (*batch.mesh_axes, *sequence.mesh_axes)
        num_experts, _, width = params["up"].shape
        (experts,) = layout.axis_shardings((num_experts,), ("expert",))
        used = AxisSharding((*split_tokens, *experts.mesh_axes))
        _, ffn = layout.axis_shardings((1, width), (used, "ffn"))
        computed = {"expert": experts, "ffn": ffn}
        taken = {*experts.mesh_axes, *ffn.mesh_axes}
        entered: dict[str, Axes] = {}
        gathered: dict[str, Gathered] = {}
        for name, param in params.items():
            stored = layout.parameter_axis_shardings(param.shape, EXPERT_AXES[name])
            parts = []
            for axis, sharding in zip(EXPERT_AXES[name], stored, strict=True):
                kept = tuple(m for m in sharding.mesh_axes if m in split_tokens and m not in taken)
                known = computed.get(axis, AxisSharding())
                parts.append((known, ()) if known.mesh_axes else (AxisSharding(kept), kept))
            entered[name] = tuple(sharding for sharding, _ in parts)
            gathered[name] = tuple((i, names) for i, (_, names) in enumerate(parts) if names)
        return cls((batch, sequence), experts, ffn, entered, gathered)

    @property
    def token_axes(self) -> tuple[str, ...]:
        """The mesh axes that split tokens."""
        return tuple(name for sharding in self.tokens for name in sharding.mesh_axes)

    @property
    def exchange_axes(self) -> tuple[str, ...]:
        """The mesh axes along which tokens travel to their experts."""
        return tuple(name for name in self.experts.mesh_axes if name in self.token_axes)

    @property
    def expert_only_axes(self) -> tuple[str, ...]:
        """The mesh axes that split experts and no tokens."""
        return tuple(name for name in self.experts.mesh_axes if name not in self.token_axes)

    @property
    def summed_axes(self) -> tuple[str, ...]:
        """The mesh axes whose devices each have a part of every token's output."""
        return (*self.expert_only_axes, *self.ffn.mesh_axes)

    @property
    def mesh_axes(self) -> tuple[str, ...]:
        """All mesh axes on which devices compute different numbers."""
        return (*self.token_axes, *self.summed_axes)

    def groups_of(self, chosen: jax.Array, num_experts: int) -> tuple[jax.Array, tuple[int, int]]:
        """Numbers the experts by the device that holds them; runs inside `shard_map`.

        Returns:
          For each choice of an expert, N * E as an upper bound stands for an expert that the devices along
          `exchange_axes` do not hold; any other number is n * E + e, for expert e of the n-th of these devices.
          The number of these devices N, and of experts of each, E.
        """
        sizes = [jax.lax.axis_size(name) for name in self.experts.mesh_axes]
        here = num_experts // math.prod(sizes)
        ways = math.prod(jax.lax.axis_size(name) for name in self.exchange_axes)
        if not sizes:
            return chosen, (1, num_experts)
        shard = np.arange(num_experts) // here
        place = dict(zip(self.experts.mesh_axes, np.unravel_index(shard, sizes), strict=True))
        target = np.zeros(num_experts, np.int32)
        for name in self.exchange_axes:
            target = target * jax.lax.axis_size(name) + place[name]
        group = jnp.asarray(target * here + np.arange(num_experts) % here, jnp.int32)
        for name in self.expert_only_axes:
            group = jnp.where(jax.lax.axis_index(name) == place[name], group, ways * here)
        return group[chosen], (ways, here)


def gather(p: jax.Array, over: Gathered, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns a parameter from its shards, rounded to a dtype before it is sent."""
    p = p.astype(dtype)
    for axis, names in over:
        p = jax.lax.all_gather(p, names, axis=axis, tiled=True)
    return p


def sum_and_scatter(dp: jax.Array, over: Gathered) -> jax.Array:
    """Returns a device's shard of the sum of all devices' gradients of a gathered parameter."""
    for axis, names in reversed(over):
        dp = jax.lax.psum_scatter(dp, names, scatter_dimension=axis, tiled=True)
    return dp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gathered(over: Gathered, dtype: jnp.dtype, p: jax.Array) -> jax.Array:
    """Returns a parameter from its shards: sent in `dtype`, returned in its own format, which its gradient has."""
    return gather(p, over, dtype).astype(p.dtype)


gathered.defvjp(
    lambda over, dtype, p: (gathered(over, dtype, p), None), lambda over, _, __, dp: (sum_and_scatter(dp, over),)
)
