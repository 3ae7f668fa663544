"""Dispatch: how tokens reach their experts, and how the experts' outputs come back.

`Dropless`: tokens sorted by expert and multiplied group by group, Gale et al. 2022, "MegaBlocks". `Capacity`: a fixed
number of slots for each expert, Lepikhin et al. 2020, "GShard", section 2.2; Fedus et al. 2021, "Switch Transformers",
equation 3. R is the number of experts of a token, C the number of slots of an expert.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.feedforward.exchange import apply_in_rounds
from model.feedforward.placement import Gathered, Placement, gathered
from model.kernels.experts import kernel_for, only_xla
from model.kernels.experts.grouped_products import RAGGED_DOT, GroupedKernel
from model.layout import Layout, vary
from model.parameters.mixed_precision import cast_like, grouped_matmul, lookup, weight_einsum

# The parameters of all experts, by name (`EXPERT_AXES`).
Params = dict[str, jax.Array]
# product(x, name): rows of x times their experts' weights of a name, plus their biases, if there are any.
Product = Callable[[jax.Array, str], jax.Array]
# multiply(x, w, sizes): rows of x, sorted into groups of these sizes, times their groups' matrices.
Multiply = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# The computation of the experts on rows, in the arrangement of their dispatch.
ExpertFn = Callable[[jax.Array, Product], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropless:
    """Every token reaches all of its experts, so that its output does not depend on other tokens of the batch.

    A kernel of model/kernels/experts/ multiplies each row by the matrices of its expert alone. On a mesh each device
    sorts its own tokens; if experts are split over devices too, tokens travel to them and back in rounds
    (model/feedforward/exchange.py).
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
    input_scale_BTR: jax.Array | None,
    weight_BTR: jax.Array | None,
    params: Params,
    expert_fn: ExpertFn,
    layout: Layout,
    kernels: tuple[GroupedKernel, ...] = (RAGGED_DOT,),
) -> jax.Array:
    """Returns the sum of the outputs of each token's experts, (B, T, D).

    Args:
      x_BTD: the tokens.
      chosen_BTR: the experts of each token.
      input_scale_BTR: a factor on the input of each of them, or None.
      weight_BTR: a factor on the output of each of them, or None.
      params: the parameters of the experts.
      expert_fn: the computation of the experts.
      layout: how tokens and experts are split over devices.
      kernels: those that may multiply rows by matrices, in the order in which they are asked.
    """
    placement = Placement.of(layout, chosen_BTR.shape[:2], params)
    num_experts, names = len(params["up"]), tuple(params)

    def multiply(x: jax.Array, w: jax.Array, sizes_E: jax.Array) -> jax.Array:
        return grouped_matmul(x, w, sizes_E, kernel_for(x, w, layout.platform, kernels))

    def on_device(
        x_BTD: jax.Array,
        chosen_BTR: jax.Array,
        input_scale_BTR: jax.Array | None,
        weight_BTR: jax.Array | None,
        *arrays: jax.Array,
    ) -> jax.Array:
        varying = placement.mesh_axes
        x_BTD, input_scale_BTR, weight_BTR = vary((x_BTD, input_scale_BTR, weight_BTR), varying)
        params = vary(_with_one_down_bias(dict(zip(names, arrays, strict=True)), placement), varying)
        group_BTR, (ways, here) = placement.groups_of(chosen_BTR, num_experts)
        group = group_BTR.reshape(-1)
        order = jnp.argsort(group, stable=True)
        inverse_order = jnp.argsort(order)
        sizes = jnp.bincount(group, length=ways * here).astype(jnp.int32)
        rows = x_BTD.reshape(-1, x_BTD.shape[-1])[order // chosen_BTR.shape[-1]]
        if input_scale_BTR is not None:
            rows = rows * input_scale_BTR.reshape(-1)[order][:, None]
        if placement.exchange_axes:
            run = functools.partial(_run_experts, expert_fn, multiply, {}, True)
            y = apply_in_rounds(run, placement, params, rows, sizes.reshape(ways, here))
        else:
            padded = bool(placement.expert_only_axes)
            y = _run_experts(expert_fn, multiply, placement.gathered, padded, params, rows, group[order], sizes)
        y_BTD = _combine(y[inverse_order].reshape(*chosen_BTR.shape, -1), weight_BTR)
        return jax.lax.psum(y_BTD, placement.summed_axes) if placement.summed_axes else y_BTD

    tokens = (*placement.tokens, None)
    inputs = (x_BTD, chosen_BTR, input_scale_BTR, weight_BTR)
    checks = only_xla(kernels, layout.platform)
    y_BTD: jax.Array = _on_devices(layout, placement, on_device, inputs, params, tokens, checks_copies=checks)
    return y_BTD


def _on_devices(
    layout: Layout,
    placement: Placement,
    on_device: Callable[..., Any],
    inputs: tuple[jax.Array | None, ...],
    params: Params,
    out_axes: Any,
    checks_copies: bool = True,
) -> Any:
    """Runs a function of arrays of tokens and of all parameters on the shards of each device: `Layout.shard_map`."""
    tokens = (*placement.tokens, None)
    in_axes = (tokens,) * len(inputs) + tuple(placement.parameters[name] for name in params)
    mapped = layout.shard_map(on_device, in_axes, out_axes, checks_copies=checks_copies)
    return mapped(*inputs, *params.values())


def _with_one_down_bias(params: Params, placement: Placement) -> Params:
    """Returns parameters whose `down_bias` is 0 on all but one of the devices whose outputs are summed."""
    if "down_bias" not in params or not placement.ffn.mesh_axes:
        return params
    is_first = jax.lax.axis_index(placement.ffn.mesh_axes) == 0
    return params | {"down_bias": jnp.where(is_first, params["down_bias"], 0)}


def _run_experts(
    expert_fn: ExpertFn,
    multiply: Multiply,
    shards: Mapping[str, Gathered],
    padded: bool,
    params: Params,
    x_MD: jax.Array,
    expert_M: jax.Array,
    sizes_E: jax.Array,
) -> jax.Array:
    """Returns the outputs of experts on rows that are sorted by expert, (M, D).

    Args:
      expert_fn: the computation of the experts.
      multiply: the product of rows and matrices.
      shards: the axes that are gathered of a parameter, by its name.
      padded: whether the last rows may have no expert here; these have the number E, and get 0.
      params: the parameters of the E experts, or shards of them.
      x_MD: the rows.
      expert_M: the expert of each row.
      sizes_E: the number of rows of each expert.
    """
    is_real_M1 = (expert_M < len(sizes_E))[:, None]

    def product(x: jax.Array, name: str) -> jax.Array:
        y = _with_gathered(multiply, shards.get(name, ()))(x, params[name], sizes_E)
        bias_name = f"{name}_bias"
        if bias_name not in params:
            return y
        bias = gathered(shards.get(bias_name, ()), x.dtype, params[bias_name])
        return y + lookup(bias, jnp.minimum(expert_M, len(sizes_E) - 1) if padded else expert_M, y.dtype)

    # Rows without an expert are cleared before and after, since kernels may leave anything in them.
    y_MD = expert_fn(jnp.where(is_real_M1, x_MD, 0) if padded else x_MD, product)
    return jnp.where(is_real_M1, y_MD, 0) if padded else y_MD


def _with_gathered(multiply: Callable[..., jax.Array], over: Gathered) -> Callable[..., jax.Array]:
    """Returns the product of x and a weight that is gathered from its shards, and again in the backward pass."""
    if not over:
        return multiply

    def gather_and_multiply(x: jax.Array, w: jax.Array, *rest: jax.Array) -> jax.Array:
        return multiply(x, gathered(over, x.dtype, w), *rest)

    return jax.checkpoint(gather_and_multiply)


def _combine(y_BTRD: jax.Array, weight_BTR: jax.Array | None) -> jax.Array:
    """Returns the weighted sum of the outputs of each token's experts."""
    return jnp.sum(y_BTRD if weight_BTR is None else y_BTRD * weight_BTR[..., None], axis=2)


def dispatch_with_capacity(
    option: Capacity,
    x_BTD: jax.Array,
    chosen_BTR: jax.Array,
    input_scale_BTR: jax.Array | None,
    weight_BTR: jax.Array | None,
    params: Params,
    expert_fn: ExpertFn,
    layout: Layout,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the outputs of each token's experts (B, T, D), and a mask of the dropped pairs (B, T, R).

    An expert that drops a token counts 0. Arguments are those of `dispatch_dropless`.
    """
    placement = Placement.of(layout, chosen_BTR.shape[:2], params)
    length, top_k = chosen_BTR.shape[1:]
    num_experts, names = len(params["up"]), tuple(params)
    capacity = option.slots(num_experts, top_k, length)
    sequence_over = placement.tokens[1].mesh_axes
    slots = capacity + -capacity % placement.tokens[1].ways  # these devices share the slots of a sequence

    def on_device(
        x_BTD: jax.Array,
        chosen_BTR: jax.Array,
        input_scale_BTR: jax.Array | None,
        weight_BTR: jax.Array | None,
        *arrays: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        varying = placement.mesh_axes
        slot_BTR = _slot_numbers(chosen_BTR, num_experts, sequence_over)
        dropped_BTR = slot_BTR >= capacity
        x_BTD, input_scale_BTR, weight_BTR = vary((x_BTD, input_scale_BTR, weight_BTR), varying)
        params = vary(_with_one_down_bias(dict(zip(names, arrays, strict=True)), placement), varying)
        group_BTR, (ways, here) = placement.groups_of(chosen_BTR, num_experts)
        slot_BTR = jnp.where(dropped_BTR, slots, slot_BTR) if slots > capacity else slot_BTR
        x_BTRD = jnp.broadcast_to(x_BTD[:, :, None], (*chosen_BTR.shape, x_BTD.shape[-1]))
        if input_scale_BTR is not None:
            x_BTRD = x_BTRD * input_scale_BTR[..., None]

        def fill_slots(x_TRD: jax.Array, group_TR: jax.Array, slot_TR: jax.Array) -> jax.Array:
            empty = jnp.zeros((ways * here, slots, x_TRD.shape[-1]), x_TRD.dtype)
            return empty.at[group_TR, slot_TR].set(x_TRD, mode="drop", unique_indices=True)

        def read_slots(y_GCD: jax.Array, group_TR: jax.Array, slot_TR: jax.Array) -> jax.Array:
            return y_GCD.at[group_TR, slot_TR].get(mode="fill", fill_value=0)

        def product(x: jax.Array, name: str) -> jax.Array:
            y = _with_gathered(functools.partial(weight_einsum, "EBCD,EDF->EBCF"), placement.gathered[name])(
                x, params[name]
            )
            bias_name = f"{name}_bias"
            if bias_name not in params:
                return y
            bias = gathered(placement.gathered[bias_name], x.dtype, params[bias_name])
            return y + cast_like(bias[:, None, None], y)

        x_GBCD = jnp.swapaxes(jax.vmap(fill_slots)(x_BTRD, group_BTR, slot_BTR), 0, 1)
        if sequence_over:
            x_GBCD = jax.lax.psum_scatter(x_GBCD, sequence_over, scatter_dimension=2, tiled=True)
        if placement.exchange_axes:
            x_EBCD = jax.lax.all_to_all(x_GBCD, placement.exchange_axes, 0, 1, tiled=True)
            y_EBCD = expert_fn(x_EBCD, product)
            y_GBCD = jax.lax.all_to_all(y_EBCD, placement.exchange_axes, 1, 0, tiled=True)
        else:
            y_GBCD = expert_fn(x_GBCD, product)
        if sequence_over:
            y_GBCD = jax.lax.all_gather(y_GBCD, sequence_over, axis=2, tiled=True)
        y_BTRD = jax.vmap(read_slots)(jnp.swapaxes(y_GBCD, 0, 1), group_BTR, slot_BTR)
        y_BTD = _combine(y_BTRD, weight_BTR)
        y_BTD = jax.lax.psum(y_BTD, placement.summed_axes) if placement.summed_axes else y_BTD
        return y_BTD, dropped_BTR

    tokens = (*placement.tokens, None)
    inputs = (x_BTD, chosen_BTR, input_scale_BTR, weight_BTR)
    outputs: tuple[jax.Array, jax.Array] = _on_devices(layout, placement, on_device, inputs, params, (tokens, tokens))
    return outputs


def _slot_numbers(chosen_BTR: jax.Array, experts: int, sequence_over: tuple[str, ...] = ()) -> jax.Array:
    """Returns how many earlier tokens of the same sequence chose the same expert, (B, T, R).

    `sequence_over` are the mesh axes that split the sequence.
    """
    batch, length, top_k = chosen_BTR.shape
    flat = chosen_BTR.reshape(batch, length * top_k)
    counts_BXE = jnp.cumsum(jax.nn.one_hot(flat, experts, dtype=jnp.int32), axis=1)
    if sequence_over:
        parts_PBE = jax.lax.all_gather(counts_BXE[:, -1], sequence_over)
        is_earlier_P = jnp.arange(len(parts_PBE)) < jax.lax.axis_index(sequence_over)
        counts_BXE += jnp.sum(jnp.where(is_earlier_P[:, None, None], parts_PBE, 0), axis=0)[:, None]
    return (jnp.take_along_axis(counts_BXE, flat[..., None], axis=-1)[..., 0] - 1).reshape(chosen_BTR.shape)
