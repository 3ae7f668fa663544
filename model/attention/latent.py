"""Multi-head latent attention: the keys and values of all heads come from one small vector per token.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1 and equations 9 to 19 and 37 to 47. With c a token's latent, a head's key
is [W_uk c, k_rope] and its value W_uv c, where k_rope carries the position and is shared by all heads. In training,
keys and values are computed explicitly. In decoding, a cache holds only c and k_rope: the query absorbs W_uk, and W_uv
is applied after the sum over keys (the "absorbed" form), since q (W_uk c) = (q W_uk) c. A head then attends to latents,
as in multi-query attention with one wide key.
"""

import dataclasses
from collections.abc import Iterator
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx

from model import kernels
from model.attention.cache import AttentionCache, ContiguousCache, RingCache, make_cache
from model.attention.patterns import Everything, Pattern
from model.attention.score_sizes import score_sizes
from model.context import Context
from model.interfaces import AttentionOption
from model.kernels.scoring import Scoring
from model.kernels.visibility import Visibility
from model.layout import Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.options.field_marks import HEAD_DIM, HEADS, WIDTH
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import weight_einsum
from model.parameters.projections import project
from model.positions.absolute import LayerPosition, NoPositions, Position
from model.positions.rotary import rotate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latent(AttentionOption):
    """Multi-head latent attention.

    Attributes:
      num_heads: N.
      kv_rank: the width of the latent from which keys and values are computed.
      query_rank: the width of the latent from which queries are computed; None for queries from the stream itself.
      head_dim: the width of the part of a head's query and key that carries no position.
      rotary_head_dim: the width of the part that carries the position; all heads share this part of the key.
      value_head_dim: the width of a head's value.
      norm: the norm of both latents.
      scale: the factor on products of queries and keys; None for (head_dim + rotary_head_dim)^-1/2. DeepSeek's models
        with YaRN multiply that by (0.1 mscale_all_dim ln factor + 1)^2.
      pattern: which keys a query sees.
    """

    num_heads: int = dataclasses.field(metadata=HEADS)
    kv_rank: int = dataclasses.field(metadata=WIDTH)
    query_rank: int | None = dataclasses.field(default=None, metadata=WIDTH)
    head_dim: int = dataclasses.field(metadata=HEAD_DIM)
    rotary_head_dim: int = dataclasses.field(metadata=HEAD_DIM)
    value_head_dim: int = dataclasses.field(metadata=HEAD_DIM)
    norm: LayerNorm | RMSNorm = RMSNorm()
    scale: float | None = None
    pattern: Pattern = Everything()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("num_heads", "kv_rank", "head_dim", "rotary_head_dim", "value_head_dim"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if self.query_rank is not None and self.query_rank < 1:
            yield "query_rank", f"must be at least 1, or None for queries without a latent, got {self.query_rank}"
        if self.scale is not None and self.scale <= 0:
            yield "scale", f"must be above 0, or None for the usual one, got {self.scale}"

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """Yields each field that clashes with the model width or with the positions, by its path, with the problem."""
        if self.rotary_head_dim >= 1:
            yield from position.problems_with(self.rotary_head_dim, position_path)

    def with_scale(self, width: int, growth: float) -> Self:
        """Returns the same attention with the scale of heads that are so many times wider, unless it has one."""
        head_dim = self.head_dim + self.rotary_head_dim
        return (
            self
            if self.scale is not None or head_dim < 1
            else dataclasses.replace(self, scale=(head_dim * growth) ** -0.5)
        )

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "LatentAttention":
        """Returns the module of one layer."""
        return LatentAttention(self, width, dropout, reductions, make, position)

    def cost(self, width: int, length: int) -> int:
        """Returns the operations of a forward pass with explicit keys and values."""
        n, r, q = self.num_heads, self.kv_rank, self.query_rank
        queries = n * (self.head_dim + self.rotary_head_dim)
        matrices = width * (r + self.rotary_head_dim) + r * n * (self.head_dim + self.value_head_dim)
        matrices += width * queries if q is None else q * (width + queries)
        matrices += n * self.value_head_dim * width
        one_pair = n * (self.head_dim + self.rotary_head_dim + self.value_head_dim)
        return 2 * (length * matrices + one_pair * self.pattern.num_visible_pairs(length))

    def cost_of_later_keys(self, width: int, length: int) -> int:
        """See `AttentionOption`."""
        one_pair = self.num_heads * (self.head_dim + self.rotary_head_dim + self.value_head_dim)
        return 2 * one_pair * (self.pattern.num_visible_pairs(length) - length)

    def rotary_width(self, width: int) -> int:
        """Returns the number of dimensions of a head that rotary positions may rotate."""
        return self.rotary_head_dim

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> ContiguousCache | RingCache:
        """Returns the cache of one layer before the first token: each token's latent and its key with the position."""
        size = (1, self.kv_rank + self.rotary_head_dim)
        return make_cache(batch, length, dtype, self.pattern.reach(), latent=size)


class LatentAttention(nnx.Module):
    """Projections down to latents and up to heads, attention, output projection."""

    def __init__(
        self,
        option: Latent,
        width: int,
        dropout: float,
        reductions: str,
        make: ParameterMaker,
        position: LayerPosition | None = None,
    ) -> None:
        """Args: the option, the model width D, the dropout on weights, the reduction dtype, the maker, positions."""
        self.position = position = NoPositions() if position is None else position
        self.option, self.dropout, self.reductions = option, dropout, reductions
        n, r, rotary = option.num_heads, option.kv_rank, option.rotary_head_dim
        q = option.query_rank
        source = "embed" if q is None else "rank"
        self.query_down = None if q is None else make.matrix("projection", (width, q), ("embed", "rank"))
        self.query_norm = None if q is None else Norm(option.norm, (q,), ("rank",), make, reductions)
        shape = (q or width, n, option.head_dim + rotary)
        self.query = make.matrix("projection", shape, (source, "heads", "head_dim"))
        self.kv_down = make.matrix("projection", (width, r), ("embed", "rank"))
        self.kv_norm = Norm(option.norm, (r,), ("rank",), make, reductions)
        self.rotary_key = make.matrix("projection", (width, rotary), ("embed", "head_dim"))
        self.key_up = make.matrix(
            "projection", (r, n, option.head_dim), ("rank", "heads", "head_dim"), eight_bits=False
        )
        self.value_up = make.matrix(
            "value", (r, n, option.value_head_dim), ("rank", "heads", "head_dim"), eight_bits=False
        )
        out = (n, option.value_head_dim, width)
        self.output = make.matrix("residual", out, ("heads", "head_dim", "embed"), inputs=2)
        self.position_bias = position.bias_table(n, make)

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: AttentionCache | None
    ) -> tuple[jax.Array, AttentionCache | None]:
        """Maps (B, T, D) to (B, T, D); with a cache, heads attend to its latents."""
        low_BTQ = x_BTD
        if self.query_down is not None and self.query_norm is not None:
            low_BTQ = self.query_norm(project(x_BTD, self.query_down, context.layout))
        q_BTNH = project(low_BTQ, self.query, context.layout)
        q_BTNH, rotary_BTNH = jnp.split(q_BTNH, [self.option.head_dim], axis=-1)
        q_BTNH = context.tap("query", jnp.concatenate([q_BTNH, rotate(rotary_BTNH, context.rotary)], -1))
        latent_BTR = context.tap("latent", self.kv_norm(project(x_BTD, self.kv_down, context.layout)))
        key_BT1H = rotate(project(x_BTD, self.rotary_key, context.layout)[:, :, None], context.rotary)
        assert context.visibility is not None
        visibility = context.visibility
        if cache is None:
            k_BSNH, v_BSNH = self._expand_latents(latent_BTR, key_BT1H, context.layout)
        else:
            new_BT1R = jnp.concatenate([latent_BTR[:, :, None], key_BT1H], axis=-1)
            cache, view = cache.extend({"latent": new_BT1R}, context.index_BT, context.lengths_B)
            visibility = visibility.with_keys(view.keys)
            q_BTNH = self._absorb(q_BTNH)
            k_BSNH = v_BSNH = view.arrays["latent"]
        q_BTNH = context.shard(q_BTNH, ("batch", "query_sequence", "heads", "head_dim"))
        y_BTNH = self._attend(q_BTNH, k_BSNH, v_BSNH, visibility.with_pattern(self.option.pattern), context)
        if cache is not None:
            # The sum is over latents and rotary keys together, as the cache holds them: a slice of it would be a copy.
            y_BTNH = weight_einsum("BTNR,RNH->BTNH", y_BTNH[..., : self.option.kv_rank], self.value_up[...])
        y_BTNH = context.shard(context.tap("mixer_heads", y_BTNH), ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNH, self.output, context.layout, contract=2), cache

    def _attend(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, visibility: Visibility, context: Context
    ) -> jax.Array:
        """Returns the weighted sums of the values that queries see, (B, T, N, the width of the values)."""
        default_scale = (self.option.head_dim + self.option.rotary_head_dim) ** -0.5
        scoring = Scoring(default_scale if self.option.scale is None else self.option.scale, reductions=self.reductions)
        table = context.shared_bias if self.position_bias is None else self.position_bias[...]
        bias = self.position.bias(self.option.num_heads, table)
        context.offer(
            "attention_weights", lambda: kernels.attention_weights(q_BTNH, k_BSKH, visibility, scoring, bias=bias)
        )
        context.offer(
            "score_sizes",
            lambda: score_sizes(q_BTNH, k_BSKH, visibility, scoring, context.weights_BT, bias),
        )
        return kernels.attend(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            visibility,
            scoring,
            bias=bias,
            dropout=self.dropout,
            dropout_key=context.next_dropout_key() if self.dropout else None,
            layout=context.layout,
            kernels=context.kernels.named("attention"),
        )

    def _expand_latents(
        self, latent_BTR: jax.Array, key_BT1H: jax.Array, layout: Layout
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the keys and values of every head."""
        k_BTNH = project(latent_BTR, self.key_up, layout)
        shared_BTNH = jnp.broadcast_to(key_BT1H, (*k_BTNH.shape[:-1], key_BT1H.shape[-1]))
        return jnp.concatenate([k_BTNH, shared_BTNH], -1), project(latent_BTR, self.value_up, layout)

    def _absorb(self, q_BTNH: jax.Array) -> jax.Array:
        """Returns queries for latents, which are the keys and the values of all heads."""
        q_BTNH, rotary_BTNH = jnp.split(q_BTNH, [self.option.head_dim], axis=-1)
        q_BTNR = weight_einsum("BTNH,RNH->BTNR", q_BTNH, self.key_up[...])
        return jnp.concatenate([q_BTNR, rotary_BTNH], -1)
