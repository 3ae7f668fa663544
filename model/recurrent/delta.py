"""The gated delta rule: a memory that decays, and in which a key replaces its old value instead of adding to it.

Yang, Kautz, Hatamizadeh 2024, "Gated Delta Networks", equation 10, with rows in place of columns:

    S_t = a_t (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T        y_t = S_t^T q_t

with a decay a_t and a write strength b_t, both from 0 to 1, for each token and head; keys and queries have norm 1.
Without decay it is the delta rule of Schlag et al. 2021, "Linear Transformers Are Secretly Fast Weight Programmers".

It is computed in chunks (Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule", section 3; section
3.3 of the first paper): S_t = a_t S_(t-1) + k_t u_t^T with u_t = b_t (v_t - a_t S_(t-1)^T k_t). Let g(t, s) be the
decay from token s to token t, and S the memory before the chunk. Then (I + L) U = diag(b) V - diag(b g) K S, where L is
b_t g(t, s) k_t^T k_s below the diagonal: one triangular system for all tokens of a chunk, the WY representation.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.attention.heads import divisors
from model.context import Context
from model.layout import Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.options.field_marks import HEAD_DIM, HEADS
from model.parameters.maker import ParameterMaker
from model.parameters.projections import project
from model.positions.absolute import LayerPosition
from model.recurrent.convolution import convolve
from model.recurrent.memory import (
    ChunkDecays,
    RecurrentOption,
    RecurrentState,
    chunk_decays,
    empty_state,
    mask_padding,
    merge_chunks,
    scan_chunks,
    split_chunks,
)

EPSILON = 1e-6  # under the square root that normalises queries and keys to length 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedDelta(RecurrentOption):
    """Heads that each have a memory under the gated delta rule.

    Attributes:
      num_heads: the number N of memories and of value heads.
      num_key_heads: the number K of query and key heads, a divisor of N, each shared by N / K memories; None for N.
      head_dim: the width H of queries and keys; None for model width / N.
      value_head_dim: the width P of values; None for H.
      decay: whether memories decay; without decay, this is the plain delta rule.
      convolution: the tokens that short causal convolutions of queries, keys and values span; None for no convolution.
      output_norm: a norm on each head's reading, with the same weights for all heads; None for no norm.
      output_gate: whether readings are multiplied by SiLU of a projection of the layer's input.
      chunk: the number of tokens in a chunk, whose pairs are computed at once; changes speed and memory use, and the
        result only by rounding.
    """

    num_heads: int = dataclasses.field(metadata=HEADS)
    num_key_heads: int | None = dataclasses.field(default=None, metadata=HEADS)
    head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    value_head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    decay: bool = True
    convolution: int | None = 4
    output_norm: LayerNorm | RMSNorm | None = RMSNorm()
    output_gate: bool = True
    chunk: int = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from self.sizes_below_one("num_heads", "num_key_heads", "head_dim", "value_head_dim", "chunk")
        if self.num_heads >= 1 and self.key_heads >= 1 and self.num_heads % self.key_heads:
            yield (
                "num_key_heads",
                f"{self.key_heads} does not divide num_heads={self.num_heads}; use one of {divisors(self.num_heads)}",
            )
        if self.convolution is not None and self.convolution < 2:
            yield "convolution", f"must span at least 2 tokens, got {self.convolution}; use None for no convolution"

    @property
    def key_heads(self) -> int:
        """K, or N if `num_key_heads` is None."""
        return self.num_heads if self.num_key_heads is None else self.num_key_heads

    def value_width(self, width: int) -> int:
        """Returns P at a model width, or H if `value_head_dim` is None."""
        return self.head_width(width) if self.value_head_dim is None else self.value_head_dim

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "GatedDeltaMixer":
        """Builds the module of one layer."""
        return GatedDeltaMixer(self, width, reductions, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: projections, convolutions, and three products with the memory."""
        n, h, p = self.num_heads, self.head_width(width), self.value_width(width)
        keys, values = self.key_heads * h, n * p
        projections = width * (2 * keys + (2 + self.output_gate) * values + (1 + self.decay) * n)
        convolutions = (self.convolution or 0) * (2 * keys + values)
        return 2 * length * (projections + convolutions + 3 * n * h * p)

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> RecurrentState:
        """Returns the state of one layer before the first token."""
        n, k, h, p = self.num_heads, self.key_heads, self.head_width(width), self.value_width(width)
        conv_states = {}
        if self.convolution is not None:
            before = self.convolution - 1
            conv_states = {"query": (batch, k, before, h), "key": (batch, k, before, h), "value": (batch, n, before, p)}
        return empty_state(memory=(batch, n, h, p), **conv_states)


class GatedDeltaMixer(nnx.Module):
    """The module of `GatedDelta`: projections to heads, short convolutions, memory, norm, gate, output projection."""

    def __init__(self, option: GatedDelta, width: int, reductions: str, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the reduction dtype, the maker."""
        self.option, self.reductions = option, reductions
        n, k, h, p = option.num_heads, option.key_heads, option.head_width(width), option.value_width(width)
        axes = ("embed", "heads", "head_dim")
        self.query = make.matrix("projection", (width, k, h), axes)
        self.key = make.matrix("projection", (width, k, h), axes)
        self.value = make.matrix("projection", (width, n, p), axes)
        self.strength = make.matrix("projection", (width, n), ("embed", "heads"))
        self.decay = make.matrix("projection", (width, n), ("embed", "heads")) if option.decay else None
        self.decay_rate = make.decay_rate((n,), ("heads",)) if option.decay else None
        self.decay_bias = make.decay_bias((n,), ("heads",)) if option.decay else None
        span, filter_axes = option.convolution, (None, "heads", "head_dim")
        self.query_filter = None if span is None else make.filter((span, k, h), filter_axes)
        self.key_filter = None if span is None else make.filter((span, k, h), filter_axes)
        self.value_filter = None if span is None else make.filter((span, n, p), filter_axes)
        norm = option.output_norm
        self.output_norm = None if norm is None else Norm(norm, (p,), ("head_dim",), make, reductions)
        self.gate = make.matrix("projection", (width, n, p), axes) if option.output_gate else None
        self.output = make.matrix("residual", (n, p, width), ("heads", "head_dim", "embed"), inputs=2)

    def __call__(
        self, x_BTD: jax.Array, context: Context, state: RecurrentState | None
    ) -> tuple[jax.Array, RecurrentState | None]:
        """Maps (B, T, D) to (B, T, D), continuing from a state."""
        layout = context.layout
        new_conv_states: dict[str, jax.Array] = {}
        q_BTNH = self._convolve(
            "query", project(x_BTD, self.query, layout), self.query_filter, context, state, new_conv_states
        )
        k_BTNH = self._convolve(
            "key", project(x_BTD, self.key, layout), self.key_filter, context, state, new_conv_states
        )
        v_BTNP = self._convolve(
            "value", project(x_BTD, self.value, layout), self.value_filter, context, state, new_conv_states
        )
        q_BTNH, k_BTNH = _l2_normalize(q_BTNH) * q_BTNH.shape[-1] ** -0.5, _l2_normalize(k_BTNH)
        heads_per_key_head = self.option.num_heads // self.option.key_heads
        if heads_per_key_head > 1:
            q_BTNH, k_BTNH = (jnp.repeat(part, heads_per_key_head, axis=2) for part in (q_BTNH, k_BTNH))
        strength_BTN = jax.nn.sigmoid(project(x_BTD, self.strength, layout).astype(self.reductions))
        strength_BTN = mask_padding(context.tap("write_strength", strength_BTN), context)
        log_decay_BTN = self._log_decay(x_BTD, layout)
        context.offer("decay", lambda: jnp.exp(log_decay_BTN))

        (batch, length, n, h), p = q_BTNH.shape, v_BTNP.shape[-1]
        size = min(self.option.chunk, length)
        memory_BNHP = jnp.zeros((batch, n, h, p), self.reductions) if state is None else state.arrays["memory"]
        memory_BNHP, y_ZBNCP = delta_rule(
            memory_BNHP.astype(self.reductions),
            split_chunks(q_BTNH, size),
            split_chunks(k_BTNH, size),
            split_chunks(v_BTNP, size),
            split_chunks(strength_BTN, size),
            chunk_decays(log_decay_BTN, size, context),
        )
        y_BTNP = merge_chunks(y_ZBNCP, length).astype(x_BTD.dtype)
        if self.output_norm is not None:
            y_BTNP = self.output_norm(y_BTNP)
        if self.gate is not None:
            y_BTNP = y_BTNP * jax.nn.silu(project(x_BTD, self.gate, layout))
        if state is not None:
            state = RecurrentState({"memory": memory_BNHP.astype(jnp.float32), **new_conv_states})
        y_BTNP = context.shard(context.tap("mixer_heads", y_BTNP), ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNP, self.output, layout, contract=2), state

    def _convolve(
        self,
        name: str,
        x_BTNH: jax.Array,
        filter_JNH: nnx.Param | None,
        context: Context,
        state: RecurrentState | None,
        new_conv_states: dict[str, jax.Array],
    ) -> jax.Array:
        """Returns queries, keys or values in the reduction dtype; fills `new_conv_states`."""
        x_BTNH = context.shard(x_BTNH, ("batch", "query_sequence", "heads", "head_dim"))
        if filter_JNH is not None:
            conv_state_BNJH = None if state is None else state.arrays[name]
            x_BTNH, new_conv_states[name] = convolve(x_BTNH, filter_JNH[...], context, conv_state_BNJH)
        return context.tap(name, jax.nn.silu(x_BTNH)).astype(self.reductions)

    def _log_decay(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns log a = -exp(rate) softplus(x w + bias), (B, T, N); the first paper takes it from Gu, Dao 2023."""
        if self.decay is None or self.decay_rate is None or self.decay_bias is None:
            return jnp.zeros((*x_BTD.shape[:-1], self.option.num_heads), self.reductions)
        step_BTN = project(x_BTD, self.decay, layout).astype(self.reductions)
        step_BTN = step_BTN + self.decay_bias[...].astype(self.reductions)
        return -jnp.exp(self.decay_rate[...].astype(self.reductions)) * jax.nn.softplus(step_BTN)


def _l2_normalize(x_BTNH: jax.Array) -> jax.Array:
    return x_BTNH * jax.lax.rsqrt(jnp.sum(x_BTNH * x_BTNH, axis=-1, keepdims=True) + EPSILON)


def inverse_unit_lower(lower: jax.Array) -> jax.Array:
    """Returns (I + L)^-1 for matrices L (..., C, C) that are 0 on and above the diagonal.

    Inverses of blocks of size 1, 2, 4, ... are combined: [[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]. This
    needs only matrix products, unlike a triangular solver (on a loaded CPU, LAPACK's solver took seconds a step). A sum
    of powers of L would also need only products, but these powers grow like binomial coefficients where keys are alike,
    and then cancel.
    """
    size, lead = lower.shape[-1], lower.shape[:-2]
    padded = 1 << (size - 1).bit_length()
    lower = jnp.pad(lower, [(0, 0)] * len(lead) + [(0, padded - size)] * 2)
    blocks, side = jnp.ones((*lead, padded, 1, 1), lower.dtype), 1
    while side < padded:
        pairs = lower.reshape(*lead, padded // (2 * side), 2 * side, padded // (2 * side), 2 * side)
        diagonal_blocks = jnp.moveaxis(jnp.diagonal(pairs, axis1=-4, axis2=-2), -1, -3)  # (..., pair, 2 side, 2 side)
        first, second = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
        corner = -second @ diagonal_blocks[..., side:, :side] @ first
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        blocks, side = jnp.concatenate([top, jnp.concatenate([corner, second], axis=-1)], axis=-2), 2 * side
    return blocks[..., 0, :size, :size]


def delta_rule(
    memory_BNHP: jax.Array,
    q_ZBNCH: jax.Array,
    k_ZBNCH: jax.Array,
    v_ZBNCP: jax.Array,
    strength_ZBNC: jax.Array,
    decay: ChunkDecays,
) -> tuple[jax.Array, jax.Array]:
    """Computes the equations above in chunks: returns the memory after the last one, and the readings (Z, B, N, C, P).

    A token with strength 0 and without decay does not change the memory.
    """
    gram_ZBNCS = jnp.einsum("ZBNCH,ZBNSH->ZBNCS", k_ZBNCH, k_ZBNCH) * decay.pairwise_ZBNCS
    lower_ZBNCS = jnp.tril(strength_ZBNC[..., None] * gram_ZBNCS, -1)
    rhs_ZBNC = (
        jnp.concatenate([v_ZBNCP, k_ZBNCH * decay.from_start_ZBNC[..., None]], axis=-1) * strength_ZBNC[..., None]
    )
    solved_ZBNC = inverse_unit_lower(lower_ZBNCS) @ rhs_ZBNC
    u_ZBNCP, w_ZBNCH = jnp.split(solved_ZBNC, [v_ZBNCP.shape[-1]], axis=-1)
    return scan_chunks(memory_BNHP, q_ZBNCH, k_ZBNCH, u_ZBNCP, decay, w_ZBNCH)
