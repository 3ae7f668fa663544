"""Linear attention: weights are products of features, so that one matrix holds all keys and values.

Katharopoulos et al. 2020, "Transformers are RNNs", equations 8 to 12 and 18 to 20, with its features f(x) = elu(x) + 1:
y_t = (sum_s v_s f(k_s)^T) f(q_t) / (sum_s f(k_s)^T f(q_t)), sums over s up to t.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.kernels.visibility import Coordinates, causal
from model.options.field_marks import HEAD_DIM, HEADS
from model.parameters.maker import ParameterMaker
from model.parameters.projections import project
from model.positions.absolute import LayerPosition
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

EPSILON = 1e-6  # added to the sum of weights, as in the paper's code


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearAttention(RecurrentOption):
    """Linear attention heads.

    Attributes:
      num_heads: N.
      head_dim: the width H of queries, keys and values; None for model width / N.
      chunk: the number of tokens in a chunk, whose pairs are computed at once; changes speed and memory use, and the
        result only by rounding.
    """

    num_heads: int = dataclasses.field(metadata=HEADS)
    head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    chunk: int = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from self.sizes_below_one("num_heads", "head_dim", "chunk")

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "LinearAttentionMixer":
        """Builds the module of one layer."""
        return LinearAttentionMixer(self, width, reductions, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: projections, writing and reading values, and the sum of weights."""
        n, h = self.num_heads, self.head_width(width)
        return 2 * length * (4 * width * n * h + n * h * (2 * h + 1))

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> RecurrentState:
        """Returns the state of one layer before the first token."""
        h = self.head_width(width)
        return empty_state(memory=(batch, self.num_heads, h, h + 1))


def features(x: jax.Array) -> jax.Array:
    """Returns elu(x) + 1."""
    return jax.nn.elu(x) + 1


class LinearAttentionMixer(nnx.Module):
    """The module of `LinearAttention`: projections to heads, linear attention, output projection."""

    def __init__(self, option: LinearAttention, width: int, reductions: str, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the reduction dtype, the maker."""
        self.option, self.reductions = option, reductions
        n, h = option.num_heads, option.head_width(width)
        axes = ("embed", "heads", "head_dim")
        self.query = make.matrix("projection", (width, n, h), axes)
        self.key = make.matrix("projection", (width, n, h), axes)
        self.value = make.matrix("projection", (width, n, h), axes)
        self.output = make.matrix("residual", (n, h, width), ("heads", "head_dim", "embed"), inputs=2)

    def __call__(
        self, x_BTD: jax.Array, context: Context, state: RecurrentState | None
    ) -> tuple[jax.Array, RecurrentState | None]:
        """Maps (B, T, D) to (B, T, D), continuing from a state."""
        layout, axes = context.layout, ("batch", "query_sequence", "heads", "head_dim")
        q_BTNH = context.shard(context.tap("query", project(x_BTD, self.query, layout)), axes).astype(self.reductions)
        k_BTNH = context.shard(context.tap("key", project(x_BTD, self.key, layout)), axes).astype(self.reductions)
        v_BTNH = context.shard(context.tap("value", project(x_BTD, self.value, layout)), axes)
        q_BTNH, k_BTNH = features(q_BTNH), mask_padding(features(k_BTNH), context)
        (batch, length, n, h), size = q_BTNH.shape, min(self.option.chunk, q_BTNH.shape[1])
        # An extra channel that is 1 in every value sums the weights.
        v_BTNP = jnp.concatenate([v_BTNH.astype(self.reductions), jnp.ones_like(q_BTNH[..., :1])], axis=-1)
        memory_BNHP = jnp.zeros((batch, n, h, h + 1), self.reductions) if state is None else state.arrays["memory"]
        memory_BNHP, y_ZBNCP = scan_chunks(
            memory_BNHP.astype(self.reductions),
            split_chunks(q_BTNH, size),
            split_chunks(k_BTNH, size),
            split_chunks(v_BTNP, size),
            chunk_decays(jnp.zeros((batch, length, 1), self.reductions), size, context),
        )
        y_BTNP = merge_chunks(y_ZBNCP, length)
        y_BTNH = (y_BTNP[..., :-1] / (y_BTNP[..., -1:] + EPSILON)).astype(x_BTD.dtype)
        if state is None:
            context.offer("attention_weights", lambda: _weights(q_BTNH, k_BTNH, context.segment_ids_BT))
        else:
            state = RecurrentState({"memory": memory_BNHP.astype(jnp.float32)})
        y_BTNH = context.shard(context.tap("mixer_heads", y_BTNH), axes)
        return project(y_BTNH, self.output, layout, contract=2), state


def _weights(q_BTNH: jax.Array, k_BSNH: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
    """Returns the weights (B, N, T, S) that the sums above give to every value."""
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH)
    mask_BTS = causal(Coordinates(q_BTNH.shape[1], segment_ids=segment_ids_BT)).mask()
    assert mask_BTS is not None
    scores_BNTS = jnp.where(mask_BTS[:, None], scores_BNTS, 0)
    return scores_BNTS / (jnp.sum(scores_BNTS, axis=-1, keepdims=True) + EPSILON)
