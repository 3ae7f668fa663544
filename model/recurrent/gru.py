"""Gated recurrent units (GRU): a hidden vector that moves part of the way to a new vector.

Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", equations 5 to 8. r, z and n each have
their own W, U and b, and s is the logistic function:

    r, z = s(W x_t + U h_(t-1) + b)    n = tanh(W x_t + U (r h_(t-1)) + b)    h_t = z h_(t-1) + (1 - z) n

If the reset comes after the product, n = tanh(W x_t + b + r (U h_(t-1) + b')), as in cuDNN and PyTorch: then one
product serves r, z and n. Heads are groups of units without recurrent weights between them: U is block-diagonal, as in
model/recurrent/lstm.py.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.options.field_marks import HEAD_DIM, HEADS
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like, weight_einsum
from model.parameters.projections import project
from model.positions.absolute import LayerPosition
from model.recurrent.memory import RecurrentOption, RecurrentState, empty_state, run_recurrent_units


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU(RecurrentOption):
    """Gated recurrent units, and a projection of their hidden vectors.

    Attributes:
      num_heads: the number N of blocks of the recurrent matrices; 1 for full matrices.
      head_dim: the number H of units of a head; None for model width / N.
      reset: whether the reset gate acts before the recurrent product (the paper) or after it.
    """

    num_heads: int = dataclasses.field(default=1, metadata=HEADS)
    head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    reset: Literal["before", "after"] = "after"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from self.sizes_below_one("num_heads", "head_dim")

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "GRUMixer":
        """Builds the module of one layer."""
        return GRUMixer(self, width, reductions, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: gates from inputs and hidden vectors, and the output projection."""
        n, h = self.num_heads, self.head_width(width)
        return 2 * length * (3 * n * h * (width + h) + n * h * width)

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> RecurrentState:
        """Returns the state of one layer before the first token."""
        return empty_state(hidden=(batch, self.num_heads, self.head_width(width)))


class GRUMixer(nnx.Module):
    """The module of `GRU`: gates of all tokens from their inputs, units token by token, output projection."""

    def __init__(self, option: GRU, width: int, reductions: str, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the reduction dtype, the maker."""
        self.option, self.reductions = option, reductions
        n, h = option.num_heads, option.head_width(width)
        self.input = make.matrix("projection", (width, 3, n, h), ("embed", None, "heads", "head_dim"))
        self.recurrent = make.matrix("recurrent", (n, h, 3, h), ("heads", "head_dim", None, None), blocks=1)
        self.bias = make.zeros((3, n, h), (None, "heads", "head_dim"))
        after = option.reset == "after"
        self.reset_bias = make.zeros((n, h), ("heads", "head_dim")) if after else None
        self.output = make.matrix("residual", (n, h, width), ("heads", "head_dim", "embed"), inputs=2)

    def __call__(
        self, x_BTD: jax.Array, context: Context, state: RecurrentState | None
    ) -> tuple[jax.Array, RecurrentState | None]:
        """Maps (B, T, D) to (B, T, D), continuing from a state."""
        gates_BTGNH = project(x_BTD, self.input, context.layout, self.bias)  # reset, update, the new vector
        empty = self.option.empty_cache(x_BTD.shape[-1], len(x_BTD), 0, self.reductions)
        hidden_BTNH, state = run_recurrent_units(self._step, gates_BTGNH, state, empty, context)
        y_BTNH = context.tap("mixer_heads", hidden_BTNH.astype(x_BTD.dtype))
        y_BTNH = context.shard(y_BTNH, ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNH, self.output, context.layout, contract=2), state

    def _step(
        self, carry: dict[str, jax.Array], gates_BGNH: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        dtype, weight_NHGJ = gates_BGNH.dtype, self.recurrent[...]
        hidden_BNH = carry["hidden"].astype(self.reductions)
        gates_BGNH = gates_BGNH.astype(self.reductions)

        def product(x_BNH: jax.Array, weight_NHGJ: jax.Array) -> jax.Array:
            return weight_einsum("BNH,NHGJ->BGNJ", x_BNH.astype(dtype), weight_NHGJ).astype(self.reductions)

        if self.reset_bias is not None:
            from_hidden_BGNH = product(hidden_BNH, weight_NHGJ)
            gate_BGNH = jax.nn.sigmoid(gates_BGNH[:, :2] + from_hidden_BGNH[:, :2])
            bias_NH = cast_like(self.reset_bias[...], from_hidden_BGNH[:, 2].astype(dtype)).astype(self.reductions)
            candidate_input_BNH = gate_BGNH[:, 0] * (from_hidden_BGNH[:, 2] + bias_NH)
        else:
            gate_BGNH = jax.nn.sigmoid(gates_BGNH[:, :2] + product(hidden_BNH, weight_NHGJ[:, :, :2]))
            candidate_input_BNH = product(gate_BGNH[:, 0] * hidden_BNH, weight_NHGJ[:, :, 2:])[:, 0]
        candidate_BNH = jnp.tanh(gates_BGNH[:, 2] + candidate_input_BNH)
        update_BNH = gate_BGNH[:, 1]
        hidden_BNH = update_BNH * hidden_BNH + (1 - update_BNH) * candidate_BNH
        outputs = {"reset_gate": gate_BGNH[:, 0], "update_gate": update_BNH, "hidden": hidden_BNH}
        return {"hidden": hidden_BNH.astype(jnp.float32)}, outputs
