"""Long short-term memory (LSTM): cells that accumulate gated inputs.

Hochreiter, Schmidhuber 1997, "Long Short-Term Memory", section 4; Gers, Schmidhuber, Cummins 2000, "Learning to
Forget", equations 1 to 6. Each gate has its own W, U and b, and s is the logistic function:

    i, f, o = s(W x_t + U h_(t-1) + b)    g = tanh(W x_t + U h_(t-1) + b)    c_t = f c_(t-1) + i g    h_t = o tanh(c_t)

Heads are groups of cells without recurrent weights between them: U is block-diagonal (Beck et al. 2024, "xLSTM",
section 2.2).
"""

import dataclasses
from collections.abc import Iterator

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
class LSTM(RecurrentOption):
    """LSTM cells, and a projection of their hidden vectors.

    Attributes:
      num_heads: the number N of blocks of the recurrent matrices; 1 for full matrices.
      head_dim: the number H of cells of a head; None for model width / N.
      forget_bias: the initial bias of forget gates (Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent
        Network Architectures": 1); None for the cells of 1997, which have no forget gates.
    """

    num_heads: int = dataclasses.field(default=1, metadata=HEADS)
    head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    forget_bias: float | None = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from self.sizes_below_one("num_heads", "head_dim")

    @property
    def gates(self) -> int:
        """G, the number of gates, plus 1 for the input to the cell."""
        return 3 if self.forget_bias is None else 4

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "LSTMMixer":
        """Builds the module of one layer."""
        return LSTMMixer(self, width, reductions, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: gates from inputs and hidden vectors, and the output projection."""
        n, h = self.num_heads, self.head_width(width)
        return 2 * length * (self.gates * n * h * (width + h) + n * h * width)

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> RecurrentState:
        """Returns the state of one layer before the first token."""
        shape = (batch, self.num_heads, self.head_width(width))
        return empty_state(hidden=shape, cell=shape)


class LSTMMixer(nnx.Module):
    """The module of `LSTM`: gates of all tokens from their inputs, cells token by token, output projection."""

    def __init__(self, option: LSTM, width: int, reductions: str, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the reduction dtype, the maker."""
        self.option, self.reductions = option, reductions
        n, h, g = option.num_heads, option.head_width(width), option.gates
        self.input = make.matrix("projection", (width, g, n, h), ("embed", None, "heads", "head_dim"))
        self.recurrent = make.matrix("recurrent", (n, h, g, h), ("heads", "head_dim", None, None), blocks=1)
        self.bias = make.zeros((3, n, h), (None, "heads", "head_dim"))
        bias = option.forget_bias
        self.forget_bias = None if bias is None else make.constant("bias", bias, (n, h), ("heads", "head_dim"))
        self.output = make.matrix("residual", (n, h, width), ("heads", "head_dim", "embed"), inputs=2)

    def __call__(
        self, x_BTD: jax.Array, context: Context, state: RecurrentState | None
    ) -> tuple[jax.Array, RecurrentState | None]:
        """Maps (B, T, D) to (B, T, D), continuing from a state."""
        bias_GNH = self.bias[...]  # input gate, output gate, input to the cell; the forget gate follows
        if self.forget_bias is not None:
            bias_GNH = jnp.concatenate([bias_GNH, self.forget_bias[...][None]])
        gates_BTGNH = project(x_BTD, self.input, context.layout)
        gates_BTGNH = gates_BTGNH + cast_like(bias_GNH, gates_BTGNH)

        def step(carry: dict[str, jax.Array], gates_BGNH: jax.Array) -> tuple[dict[str, jax.Array], dict]:
            hidden_BNH = carry["hidden"].astype(gates_BGNH.dtype)
            gates_BGNH = gates_BGNH + weight_einsum("BNH,NHGJ->BGNJ", hidden_BNH, self.recurrent[...])
            gates_BGNH = gates_BGNH.astype(self.reductions)
            i_BNH, o_BNH = jax.nn.sigmoid(gates_BGNH[:, 0]), jax.nn.sigmoid(gates_BGNH[:, 1])
            old_cell_BNH = carry["cell"].astype(self.reductions)
            outputs = {"input_gate": i_BNH, "output_gate": o_BNH}
            if self.option.forget_bias is not None:
                outputs["forget_gate"] = jax.nn.sigmoid(gates_BGNH[:, 3])
                old_cell_BNH = old_cell_BNH * outputs["forget_gate"]
            cell_BNH = old_cell_BNH + i_BNH * jnp.tanh(gates_BGNH[:, 2])
            outputs |= {"cell": cell_BNH, "hidden": o_BNH * jnp.tanh(cell_BNH)}
            return {name: outputs[name].astype(jnp.float32) for name in ("hidden", "cell")}, outputs

        empty = self.option.empty_cache(x_BTD.shape[-1], len(x_BTD), 0, self.reductions)
        hidden_BTNH, state = run_recurrent_units(step, gates_BTGNH, state, empty, context)
        y_BTNH = context.tap("mixer_heads", hidden_BTNH.astype(x_BTD.dtype))
        y_BTNH = context.shard(y_BTNH, ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNH, self.output, context.layout, contract=2), state
