"""Dispatch: how tokens reach their experts, and how the experts' outputs come back.

`Dropless`: tokens sorted by expert and multiplied group by group, Gale et al. 2022, "MegaBlocks". `Capacity`: a fixed
number of slots for each expert, Lepikhin et al. 2020, "GShard", section 2.2; Fedus et al. 2021, "Switch Transformers",
equation 3. R is the number of experts of a token, C the number of slots of an expert.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from model.layout import Layout
from model.parameters.grouped_products import RAGGED_DOT, GroupedKernel
from model.parameters.mixed_precision import cast_like, grouped_matmul, lookup, weight_einsum

# product(x, w, b): rows of x times their experts' weights w (E, inputs, outputs), plus biases b (E, outputs) or None.
Product = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
# The computation of the experts on rows, in the arrangement of their dispatch.
ExpertFn = Callable[[jax.Array, Product], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropless:
    """Every token reaches all of its experts, so that its output does not depend on other tokens of the batch.

    A kernel of model/kernels/grouped_products.py multiplies each row once; on a CPU every row is multiplied by every
    expert, E times the work. Tokens are sorted as one list: on a mesh each device gets the tokens of all.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """Each expert takes C = ceil(factor * R * T / E) tokens of each sequence of T tokens, and drops later tokens.

    A dropped token gets 0 from that expert alone; its other experts are not affected. Experts take tokens in the order
    of the sequence, so that no token depends on a later token; documents packed into one row share its slots. C depends
    on T: decoding token by token drops no tokens, since every expert has a slot, while a pass over the whole sequence
    may drop some.
    """

    factor: float = 1.25

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.factor <= 0:
            yield "factor", f"must be above 0, got {self.factor}"

    def slots(self, num_experts: int, top_k: int, length: int) -> int:
        """Returns C, which is never more than the tokens of a sequence."""
        return min(length, math.ceil(self.factor * top_k * length / num_experts))

    def depends_on_row(self, length: int) -> bool:
        """Whether the other documents of a row of `length` tokens matter to what becomes of one."""
        return True


def dispatch_dropless(
    x_BTD: jax.Array,
    chosen_BTR: jax.Array,
    scale_BTR: jax.Array | None,
    experts: int,
    expert_fn: ExpertFn,
    choose_kernel: Callable[[jax.Array, jax.Array], GroupedKernel] = lambda x, w: RAGGED_DOT,
) -> jax.Array:
    """Returns the outputs of each token's experts, (B, T, R, D).

    Args:
      x_BTD: the tokens.
      chosen_BTR: the experts of each token.
      scale_BTR: a factor on the input of each of them, or None.
      experts: E.
      expert_fn: the computation of the experts.
      choose_kernel: returns the kernel for the product of rows and matrices.
    """
    chosen = chosen_BTR.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    inverse_order = jnp.argsort(order)
    expert_of_row, sizes = chosen[order], jnp.bincount(chosen, length=experts).astype(jnp.int32)
    rows = x_BTD.reshape(-1, x_BTD.shape[-1])[order // chosen_BTR.shape[-1]]
    if scale_BTR is not None:
        rows = rows * scale_BTR.reshape(-1)[order][:, None]

    def product(x: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
        y = grouped_matmul(x, w, sizes, choose_kernel(x, w))
        return y if b is None else y + lookup(b, expert_of_row, y.dtype)

    return expert_fn(rows, product)[inverse_order].reshape(*chosen_BTR.shape, -1)


def dispatch_with_capacity(
    option: Capacity,
    x_BTD: jax.Array,
    chosen_BTR: jax.Array,
    scale_BTR: jax.Array | None,
    experts: int,
    expert_fn: ExpertFn,
    layout: Layout,
) -> tuple[jax.Array, jax.Array]:
    """Returns the outputs of each token's experts (B, T, R, D), 0 where dropped, and a mask of the drops (B, T, R)."""
    batch, length, top_k = chosen_BTR.shape
    capacity = option.slots(experts, top_k, length)
    slot_BTR = _slot_numbers(chosen_BTR, experts)
    x_BTRD = jnp.broadcast_to(x_BTD[:, :, None], (batch, length, top_k, x_BTD.shape[-1]))
    if scale_BTR is not None:
        x_BTRD = x_BTRD * scale_BTR[..., None]

    def fill_slots(x_TRD: jax.Array, chosen_TR: jax.Array, slot_TR: jax.Array) -> jax.Array:
        empty = jnp.zeros((experts, capacity, x_TRD.shape[-1]), x_TRD.dtype)
        return empty.at[chosen_TR, slot_TR].set(x_TRD, mode="drop", unique_indices=True)

    def read_slots(y_ECD: jax.Array, chosen_TR: jax.Array, slot_TR: jax.Array) -> jax.Array:
        return y_ECD.at[chosen_TR, slot_TR].get(mode="fill", fill_value=0)

    def product(x: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
        y = weight_einsum("EBCD,EDF->EBCF", x, w)
        return y if b is None else y + cast_like(b[:, None, None], y)

    axes = ("expert", "batch", None, "embed")
    x_EBCD = layout.constrain(jnp.swapaxes(jax.vmap(fill_slots)(x_BTRD, chosen_BTR, slot_BTR), 0, 1), axes)
    y_EBCD = layout.constrain(expert_fn(x_EBCD, product), axes)
    return jax.vmap(read_slots)(jnp.swapaxes(y_EBCD, 0, 1), chosen_BTR, slot_BTR), slot_BTR >= capacity


def _slot_numbers(chosen_BTR: jax.Array, experts: int) -> jax.Array:
    """Returns how many earlier tokens of the same sequence chose the same expert, (B, T, R)."""
    batch, length, top_k = chosen_BTR.shape
    flat = chosen_BTR.reshape(batch, length * top_k)
    counts_BXE = jnp.cumsum(jax.nn.one_hot(flat, experts, dtype=jnp.int32), axis=1)
    return (jnp.take_along_axis(counts_BXE, flat[..., None], axis=-1)[..., 0] - 1).reshape(chosen_BTR.shape)
