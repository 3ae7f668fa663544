"""Cross-attention: queries from the target, keys and values from the encoded source.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3, "encoder-decoder attention".
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
from flax import nnx

from model import kernels
from model.attention.grouped_query import QKNorm
from model.attention.heads import problems_of_heads
from model.context import Context
from model.encoder.cache import AnySourceCache, SourceCache, empty_source_cache
from model.encoder.source import visible_source
from model.kernels.scoring import Scoring
from model.parameters.maker import ParameterMaker
from model.parameters.projections import project


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """Attention of the tokens of a target to all tokens of its source, without positions.

    Attributes:
      num_heads: query heads N.
      num_kv_heads: key/value heads K, a divisor of N; None for N.
      head_dim: head width H; None for model width / N.
      qkv_bias, output_bias: whether the projections to heads, and the output projection, have biases.
      qk_norm: norms on queries and keys, or None.
      scale: the factor on products of queries and keys; None for H^-1/2.
      reads_pages: whether keys and values may lie in pages, as in the engine.
    """

    reads_pages: ClassVar[bool] = True

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: QKNorm | None = None
    scale: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        if self.scale is not None and self.scale <= 0:
            yield "scale", f"must be above 0, or None for the usual one, got {self.scale}"
        if self.qk_norm is not None and self.qk_norm.after_positions:
            yield "qk_norm.after_positions", "queries of a source have no rotary positions; set it False"

    def problems_with(self, width: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields each field that clashes with the model width, by its path, with the problem."""
        if self.head_dim is None and self.num_heads > 0 and width % self.num_heads:
            yield (
                f"{path}.num_heads",
                f"{self.num_heads} heads do not divide width={width}; change one of them, or set {path}.head_dim",
            )

    @property
    def kv_heads(self) -> int:
        """K, with None resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def head_width(self, width: int) -> int:
        """Returns H at a model width, with None resolved."""
        return width // self.num_heads if self.head_dim is None else self.head_dim

    def build(self, width: int, dropout: float, reductions: str, make: ParameterMaker) -> "CrossAttentionLayer":
        """Returns the module of one layer; arguments as for `MixerOption.build`."""
        return CrossAttentionLayer(self, width, dropout, reductions, make)

    def empty_cache(self, width: int, batch: int, slots: int, dtype: str) -> SourceCache:
        """Returns the cache of one layer before a source of at most `slots` tokens is read."""
        return empty_source_cache(batch, slots, self.kv_heads, self.head_width(width), dtype)

    def cost(self, width: int, targets: int, sources: int) -> int:
        """Returns the operations of a forward pass: projections of both sides, then scores and sums of all pairs."""
        n, k, h = self.num_heads, self.kv_heads, self.head_width(width)
        return 2 * (width * h * (2 * n * targets + 2 * k * sources) + 2 * n * h * targets * sources)


class CrossAttentionLayer(nnx.Module):
    """Projections to heads, attention to the source, output projection."""

    def __init__(
        self, option: CrossAttention, width: int, dropout: float, reductions: str, make: ParameterMaker
    ) -> None:
        """Args: the option, the model width D, the dropout on weights, the reduction dtype, the maker."""
        self.option, self.dropout, self.reductions = option, dropout, reductions
        n, k, h = option.num_heads, option.kv_heads, option.head_width(width)
        self.query = make.matrix("projection", (width, n, h), ("embed", "heads", "head_dim"))
        self.key = make.matrix("projection", (width, k, h), ("embed", "kv_heads", "head_dim"))
        self.value = make.matrix("value", (width, k, h), ("embed", "kv_heads", "head_dim"))
        self.output = make.matrix("residual", (n, h, width), ("heads", "head_dim", "embed"), inputs=2)
        biased = option.qkv_bias
        self.query_bias = make.zeros((n, h), ("heads", "head_dim")) if biased else None
        self.key_bias = make.zeros((k, h), ("kv_heads", "head_dim")) if biased else None
        self.value_bias = make.zeros((k, h), ("kv_heads", "head_dim")) if biased else None
        self.output_bias = make.zeros((width,), ("embed",)) if option.output_bias else None
        norm = option.qk_norm
        self.query_norm = None if norm is None else norm.build(n, h, "heads", make, reductions)
        self.key_norm = None if norm is None else norm.build(k, h, "kv_heads", make, reductions)

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: AnySourceCache | None
    ) -> tuple[jax.Array, AnySourceCache | None]:
        """Maps (B, T, D) to (B, T, D). A pass with a source fills the cache if it has one; others read the cache."""
        assert context.visibility is not None
        q_BTNH = project(x_BTD, self.query, context.layout, self.query_bias)
        q_BTNH = q_BTNH if self.query_norm is None else self.query_norm(q_BTNH)
        q_BTNH = context.shard(context.tap("cross_query", q_BTNH), ("batch", "query_sequence", "heads", "head_dim"))
        if context.source is not None:
            k_BSKH, v_BSKH = self._keys_and_values(context.source.stream_BSD, context)
            segment_ids_BS = context.source.segment_ids_BS
            cache = None if cache is None else cache.filled(k_BSKH, v_BSKH, segment_ids_BS)
        else:
            assert cache is not None, "a pass without a source reads one from the cache"
            k_BSKH, v_BSKH, segment_ids_BS = cache.kept()
        visibility = visible_source(context.visibility.queries, k_BSKH.shape[1], segment_ids_BS)
        scale = q_BTNH.shape[-1] ** -0.5 if self.option.scale is None else self.option.scale
        scoring = Scoring(scale, None, self.reductions)
        context.offer("cross_weights", lambda: kernels.attention_weights(q_BTNH, k_BSKH, visibility, scoring))
        y_BTNH = kernels.attend(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            visibility,
            scoring,
            dropout=self.dropout,
            dropout_key=context.next_dropout_key() if self.dropout else None,
            layout=context.layout,
            kernels=context.kernels.named("attention"),
        )
        y_BTNH = context.shard(context.tap("cross_heads", y_BTNH), ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNH, self.output, context.layout, self.output_bias, contract=2), cache

    def _keys_and_values(self, source_BSD: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        """Returns the keys and the values of a source, (B, S, K, H)."""
        axes = ("batch", "query_sequence", "kv_heads", "head_dim")
        k_BSKH = project(source_BSD, self.key, context.layout, self.key_bias)
        k_BSKH = k_BSKH if self.key_norm is None else self.key_norm(k_BSKH)
        v_BSKH = project(source_BSD, self.value, context.layout, self.value_bias)
        k_BSKH = context.shard(context.tap("cross_key", k_BSKH), axes)
        return k_BSKH, context.shard(context.tap("cross_value", v_BSKH), axes)
