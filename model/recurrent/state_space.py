"""State-space mixer with a scalar decay for each head: Mamba-2.

Dao, Gu 2024, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
Duality" (arXiv 2405.21060), equations 1 and 2 with the structure of section 5, and the block of section 7. The input of
a head is x_t (P), the heads of a group share B_t and C_t (H), and each head has a step d_t, softplus(w x + bias):

    S_t = exp(-exp(A_log) d_t) S_(t-1) + B_t (d_t x_t)^T        y_t = S_t^T C_t + D x_t

This is a memory with keys B, queries C and values d x, computed in chunks (section 6) by model/recurrent/memory.py.
First x, B and C go through a short convolution and SiLU; at the end, y * SiLU(z) is normalised over each group's heads.
At the start of training exp(A_log) is uniform from 1 to 16, the step of an input of zeros is log-uniform from 0.001 to
0.1, and D is 1. Weight decay spares A_log, the bias of the step, D and the biases of the convolution.

Differences from the authors' code (github.com/state-spaces/mamba, mamba2.py): the option gives the number of heads, not
their width of 64. The filters of the convolution start from a truncated normal distribution with the deviation
1 / convolution^(1/2) and its biases at 0; that code draws both uniformly, up to 1 / convolution^(1/2) on either side of
0. Chunks have 64 tokens, not 256.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.layout import Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.options.field_marks import HEAD_DIM, HEADS
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like
from model.parameters.projections import project
from model.positions.absolute import LayerPosition, Position
from model.recurrent.convolution import convolve
from model.recurrent.memory import (
    RecurrentOption,
    RecurrentState,
    chunk_decays,
    empty_state,
    mask_padding,
    merge_chunks,
    scan_chunks,
    split_chunks,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateSpace(RecurrentOption):
    """State-space heads, each with its own state.

    Attributes:
      num_heads: N.
      num_groups: the number G of groups of heads that share B and C, a divisor of N.
      head_dim: the width P of the input of a head; None for 2 * model width / N, the paper's expansion.
      state_dim: H, the width of B and C.
      convolution: the tokens that short causal convolutions of x, B and C span; None for no convolution.
      convolution_bias: whether the convolutions have biases.
      bias: whether the projections of the input, and the output projection, have biases.
      output_norm: a norm on the outputs of each group's heads, after the gate; None for no norm.
      chunk: the number of tokens in a chunk, whose pairs are computed at once; changes speed and memory use, and the
        result only by rounding.
    """

    num_heads: int = dataclasses.field(metadata=HEADS)
    num_groups: int = 1
    head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    state_dim: int = 128
    convolution: int | None = 4
    convolution_bias: bool = True
    bias: bool = False
    output_norm: LayerNorm | RMSNorm | None = RMSNorm(epsilon=1e-5)
    chunk: int = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from self.sizes_below_one("num_heads", "num_groups", "head_dim", "state_dim", "chunk")
        if self.num_heads >= 1 and self.num_groups >= 1 and self.num_heads % self.num_groups:
            divisors = [d for d in range(1, self.num_heads + 1) if self.num_heads % d == 0]
            yield "num_groups", f"{self.num_groups} does not divide num_heads={self.num_heads}; use one of {divisors}"
        if self.convolution is not None and self.convolution < 2:
            yield "convolution", f"must span at least 2 tokens, got {self.convolution}; use None for no convolution"
        if self.convolution is None and not self.convolution_bias:
            yield "convolution_bias", "there is no convolution to have biases; leave it out"

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """Yields fields that clash with a model width, by path."""
        if self.num_heads >= 1 and width >= 1 and self.head_dim is None and 2 * width % self.num_heads:
            yield (
                f"{path}.num_heads",
                f"{self.num_heads} heads do not divide 2 * width={2 * width}; change one of them, or set "
                f"{path}.head_dim",
            )

    def head_width(self, width: int) -> int:
        """Returns P at a model width, also if `head_dim` is None."""
        return 2 * width // self.num_heads if self.head_dim is None else self.head_dim

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "StateSpaceMixer":
        """Builds the module of one layer."""
        return StateSpaceMixer(self, width, reductions, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: projections, convolutions, writes to states and reads from them."""
        n, h, inner = self.num_heads, self.state_dim, self.num_heads * self.head_width(width)
        shared = 2 * self.num_groups * h
        projections = width * (3 * inner + shared + n)
        return 2 * length * (projections + (self.convolution or 0) * (inner + shared) + 2 * inner * h)

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> RecurrentState:
        """Returns the state of one layer before the first token."""
        n, g, h, p = self.num_heads, self.num_groups, self.state_dim, self.head_width(width)
        conv_states = {}
        if self.convolution is not None:
            before = self.convolution - 1
            conv_states = {"query": (batch, g, before, h), "key": (batch, g, before, h), "value": (batch, n, before, p)}
        return empty_state(memory=(batch, n, h, p), **conv_states)


class StateSpaceMixer(nnx.Module):
    """The module of `StateSpace`: projections to heads, short convolutions, states, gate, norm, output projection."""

    def __init__(self, option: StateSpace, width: int, reductions: str, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the reduction dtype, the maker."""
        self.option, self.reductions = option, reductions
        n, g, h, p = option.num_heads, option.num_groups, option.state_dim, option.head_width(width)
        head_axes, group_axes = ("embed", "heads", "head_dim"), ("embed", None, "head_dim")
        self.gate = make.matrix("projection", (width, n, p), head_axes)
        self.value = make.matrix("projection", (width, n, p), head_axes)
        self.key = make.matrix("projection", (width, g, h), group_axes)
        self.query = make.matrix("projection", (width, g, h), group_axes)
        self.step = make.matrix("projection", (width, n), ("embed", "heads"))
        self.decay_rate = make.decay_rate((n,), ("heads",))
        self.decay_bias = make.decay_bias((n,), ("heads",))
        self.skip = make.constant("skip", 1.0, (n,), ("heads",))
        axes: tuple[str | None, ...]
        for name, size in {"value": (n, p), "key": (g, h), "query": (g, h)}.items():
            if option.convolution is not None:
                axes = ("heads" if name == "value" else None, "head_dim")
                setattr(self, f"{name}_filter", make.filter((option.convolution, *size), (None, *axes)))
                setattr(self, f"{name}_bias", make.zeros(size, axes) if option.convolution_bias else None)
        for name in ("gate", "value", "key", "query", "step"):
            size = getattr(self, name).shape[1:]
            axes = (None if name in ("key", "query") else "heads", "head_dim")[: len(size)]
            setattr(self, f"{name}_projection_bias", make.zeros(size, axes) if option.bias else None)
        norm, shape, norm_axes = option.output_norm, (g, n // g, p), (None, "heads", "head_dim")
        self.output_norm = None if norm is None else Norm(norm, shape, norm_axes, make, reductions, num_axes=2)
        self.output = make.matrix("residual", (n, p, width), ("heads", "head_dim", "embed"), inputs=2)
        self.output_bias = make.zeros((width,), ("embed",)) if option.bias else None

    def __call__(
        self, x_BTD: jax.Array, context: Context, state: RecurrentState | None
    ) -> tuple[jax.Array, RecurrentState | None]:
        """Maps (B, T, D) to (B, T, D), continuing from a state."""
        option, layout, new_conv_states = self.option, context.layout, {}
        x_BTNP, new_conv_states["value"] = self._convolve("value", x_BTD, context, state)
        k_BTGH, new_conv_states["key"] = self._convolve("key", x_BTD, context, state)
        q_BTGH, new_conv_states["query"] = self._convolve("query", x_BTD, context, state)
        k_BTNH, q_BTNH = (jnp.repeat(x, option.num_heads // option.num_groups, axis=2) for x in (k_BTGH, q_BTGH))
        step_BTN = self._project("step", x_BTD, layout).astype(self.reductions)
        step_BTN = step_BTN + self.decay_bias[...].astype(self.reductions)
        step_BTN = mask_padding(context.tap("step", jax.nn.softplus(step_BTN)), context)
        log_decay_BTN = -jnp.exp(self.decay_rate[...].astype(self.reductions)) * step_BTN
        context.offer("decay", lambda: jnp.exp(log_decay_BTN))

        (batch, length, n, p), h = x_BTNP.shape, option.state_dim
        size = min(option.chunk, length)
        memory_BNHP = jnp.zeros((batch, n, h, p), self.reductions) if state is None else state.arrays["memory"]
        memory_BNHP, y_ZBNCP = scan_chunks(
            memory_BNHP.astype(self.reductions),
            split_chunks(q_BTNH, size),
            split_chunks(k_BTNH, size),
            split_chunks(x_BTNP * step_BTN[..., None], size),
            chunk_decays(log_decay_BTN, size, context),
        )
        y_BTNP = merge_chunks(y_ZBNCP, length) + self.skip[...].astype(self.reductions)[:, None] * x_BTNP
        y_BTNP = y_BTNP.astype(x_BTD.dtype) * jax.nn.silu(self._project("gate", x_BTD, layout))
        if self.output_norm is not None:
            grouped = y_BTNP.reshape(batch, length, option.num_groups, -1, p)
            y_BTNP = self.output_norm(grouped).reshape(y_BTNP.shape)
        if state is not None:
            conv_states = {name: conv_state for name, conv_state in new_conv_states.items() if conv_state is not None}
            state = RecurrentState({"memory": memory_BNHP.astype(jnp.float32), **conv_states})
        y_BTNP = context.shard(context.tap("mixer_heads", y_BTNP), ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNP, self.output, layout, self.output_bias, contract=2), state

    def _project(self, name: str, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns one of the five projections of the layer's input, with its bias if it has one."""
        return project(x_BTD, getattr(self, name), layout, getattr(self, f"{name}_projection_bias"))

    def _convolve(
        self, name: str, x_BTD: jax.Array, context: Context, state: RecurrentState | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns x, B or C in the reduction dtype, and the state of the convolution for the next tokens."""
        heads = "heads" if name == "value" else None
        y_BTNH = self._project(name, x_BTD, context.layout)
        y_BTNH = context.shard(y_BTNH, ("batch", "query_sequence", heads, "head_dim"))
        new_conv_state = None
        if self.option.convolution is not None:
            conv_state_BNJH = None if state is None else state.arrays[name]
            y_BTNH, new_conv_state = convolve(y_BTNH, getattr(self, f"{name}_filter")[...], context, conv_state_BNJH)
            bias_NH = getattr(self, f"{name}_bias")
            y_BTNH = y_BTNH if bias_NH is None else y_BTNH + cast_like(bias_NH[...], y_BTNH)
        return context.tap(name, jax.nn.silu(y_BTNH)).astype(self.reductions), new_conv_state
