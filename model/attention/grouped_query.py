"""Causal self-attention with grouped key/value heads; multi-head and multi-query attention are its two extremes.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2; Shazeer 2019, "Fast Transformer Decoding" (multi-query);
Ainslie et al. 2023, "GQA". Norms on queries and keys: Henry et al. 2020, "Query-Key Normalization for Transformers", in
the per-head form of later models.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from model import kernels
from model.attention.cache import AttentionCache, ContiguousCache, RingCache, make_cache
from model.attention.heads import problems_of_heads
from model.attention.patterns import Everything, Pattern
from model.attention.score_sizes import score_sizes
from model.attention.value_residual import ValueResidual
from model.context import Context
from model.interfaces import AttentionOption, CrossLayerShape
from model.kernels.scoring import Scoring
from model.kernels.visibility import Visibility
from model.norms import LayerNorm, Norm, RMSNorm, has_weights
from model.options.field_marks import HEAD_DIM, HEADS
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import round_to_dtype
from model.parameters.projections import project
from model.positions.absolute import LayerPosition, NoPositions, Position
from model.positions.query_scale import LogTemperature
from model.positions.rotary import rotate


@dataclasses.dataclass(frozen=True, kw_only=True)
class QKNorm:
    """Norms of queries and of keys.

    Attributes:
      norm: the kind of norm.
      over: "head" normalises each head, all with the same weights (Qwen 3, Gemma 3); "each_head" gives every head its
        own weights (Cohere); "projection" normalises all heads as one vector (OLMo 2).
      after_positions: whether the norm comes after rotary positions.
    """

    norm: LayerNorm | RMSNorm = RMSNorm()
    over: Literal["head", "each_head", "projection"] = "head"
    after_positions: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.over == "each_head" and not has_weights(self.norm):
            yield "over", "'each_head' has no weights to give to every head; use 'head', or a norm with weights"

    def build(self, heads: int, head_dim: int, axis: str, make: ParameterMaker, reductions: str) -> Norm:
        """Returns the norm of `heads` heads, whose axis is named `axis`."""
        shape, axes = ((head_dim,), ("head_dim",)) if self.over == "head" else ((heads, head_dim), (axis, "head_dim"))
        return Norm(self.norm, shape, axes, make, reductions, num_axes=2 if self.over == "projection" else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupedQuery(AttentionOption):
    """Grouped-query attention.

    Attributes:
      num_heads: query heads N.
      num_kv_heads: key/value heads K, a divisor of N; None for N (multi-head), 1 for multi-query.
      head_dim: head width H; None for model width / N.
      qkv_bias, output_bias: whether the projections to heads, and the output projection, have biases.
      qk_norm: norms on queries and keys, or None.
      value_norm: a norm of the values of each head, all heads with the same weights if it has any; or None (Gemma 4).
      values_from_keys: whether values are the projected keys, before the norm and the positions of these, in place of a
        projection of their own (the global layers of Gemma 4).
      qkv_clip: c, so that entries of queries, keys and values outside [-c, c] become -c or c; or None. It comes before
        rotary positions, and after norms unless these come after positions (MPT, DBRX, OLMo).
      scale: the factor on products of queries and keys; None for H^-1/2.
      scale_by_layer: whether scores of layer l, counted from 1, are divided by l too (the GPT-2 models of Mistral,
        Stanford CRFM).
      logit_softcap: c of c * tanh(score / c), or None.
      output_gate: multiplies the output of heads by a sigmoid of a projection of the layer's input: one number per
        "head" or per "channel" (Qiu et al. 2025, "Gated Attention for Large Language Models"); "none" for no gate.
      gate_bias: whether the projection to the output gate has a bias.
      sinks: whether the softmax of every head has an additional trained score that belongs to no key (GPT-OSS).
      value_residual: mixes the values of the first layer with this option into those of later layers; or None.
      kv_from_layer: the number of an earlier layer, from 0, whose keys and values this layer sees, after norms and
        positions; it then has none of its own, and no cache (Brandon et al. 2024, "Reducing Transformer Key-Value Cache
        Size with Cross-Layer Attention"; the late layers of Gemma 3n and 4); or None.
      temperature: a factor on queries that grows with position, or None.
      pattern: which keys a query sees.
    """

    num_heads: int = dataclasses.field(metadata=HEADS)
    num_kv_heads: int | None = dataclasses.field(default=None, metadata=HEADS)
    head_dim: int | None = dataclasses.field(default=None, metadata=HEAD_DIM)
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: QKNorm | None = None
    value_norm: LayerNorm | RMSNorm | None = None
    values_from_keys: bool = False
    qkv_clip: float | None = None
    scale: float | None = None
    scale_by_layer: bool = False
    logit_softcap: float | None = None
    output_gate: Literal["none", "head", "channel"] = "none"
    gate_bias: bool = False
    sinks: bool = False
    value_residual: ValueResidual | None = None
    kv_from_layer: int | None = None
    temperature: LogTemperature | None = None
    pattern: Pattern = Everything()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        if self.qkv_clip is not None and self.qkv_clip <= 0:
            yield "qkv_clip", f"must be above 0, or None for no limit, got {self.qkv_clip}"
        if self.logit_softcap is not None and self.logit_softcap <= 0:
            yield "logit_softcap", f"must be above 0, or None for no cap, got {self.logit_softcap}"
        if self.gate_bias and self.output_gate == "none":
            yield "gate_bias", "there is no gate to have a bias; set it False, or choose an output_gate"
        if self.kv_from_layer is not None:
            for name in ("value_norm", "values_from_keys", "value_residual"):
                if getattr(self, name):
                    yield name, "the layer has no values of its own; leave it out, or set kv_from_layer=None"
        if self.scale is not None and self.scale <= 0:
            yield "scale", f"must be above 0, or None for the usual one, got {self.scale}"

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """Yields each field that clashes with the model width or with the positions, by its path, with the problem."""
        if self.num_heads < 1 or width < 1:
            return
        if self.head_dim is None and width % self.num_heads:
            yield (
                f"{path}.num_heads",
                f"{self.num_heads} heads do not divide width={width}; change one of them, or set mixer.head_dim",
            )
        else:
            yield from position.problems_with(self.head_width(width), position_path)

    def without_effect(self, positions: Sequence[Position], path: str) -> Iterator[tuple[str, str]]:
        """Yields fields without effect in all layers that have this option; `positions` are those of the layers."""
        if self.qk_norm is not None and self.qk_norm.after_positions and not any(p.rotates for p in positions):
            names = " and ".join(sorted({type(p).__name__ for p in positions}))
            yield (
                f"{path}.qk_norm.after_positions",
                f"needs rotary positions, and its layers have {names}; set it False",
            )

    def written_like(self, other: Any, width: int | None) -> Self:
        """Returns the same option; numbers of heads that equal those of `other` are given or None as there."""
        fields: dict[str, Any] = {}
        if isinstance(other, GroupedQuery):
            if self.kv_heads == other.kv_heads:
                fields["num_kv_heads"] = other.num_kv_heads
            if width is not None and self.head_width(width) == other.head_width(width):
                fields["head_dim"] = other.head_dim
        return dataclasses.replace(self, **fields)

    def with_scale(self, width: int, growth: float) -> Self:
        """Returns the same attention with the scale of heads that are so many times wider, unless it has one."""
        if self.scale is not None or self.num_heads < 1 or self.head_width(width) < 1:
            return self
        return dataclasses.replace(self, scale=(self.head_width(width) * growth) ** -0.5)

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "GroupedQueryAttention":
        """Returns the module of one layer."""
        return GroupedQueryAttention(self, width, dropout, reductions, make, position)

    def cost(self, width: int, length: int) -> int:
        """Returns the operations of a forward pass: projections, then scores and sums of values over all pairs."""
        n, k, h = self.num_heads, self.kv_heads, self.head_width(width)
        gates = {"none": 0, "head": n, "channel": n * h}[self.output_gate]
        own = 0 if self.kv_from_layer is not None else 1 if self.values_from_keys else 2
        matrices = width * (h * (2 * n + own * k) + gates)
        return 2 * (length * matrices + 2 * n * h * self.pattern.num_visible_pairs(length))

    def cost_of_later_keys(self, width: int, length: int) -> int:
        """See `AttentionOption`."""
        later = self.pattern.num_visible_pairs(length) - length
        return 2 * 2 * self.num_heads * self.head_width(width) * later

    @property
    def kv_heads(self) -> int:
        """K, with None resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def rotary_width(self, width: int) -> int:
        """Returns the number of dimensions of a head that rotary positions may rotate."""
        return self.head_width(width)

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> ContiguousCache | RingCache:
        """Returns the cache of one layer before the first token."""
        size = (self.kv_heads, self.head_width(width))
        return make_cache(batch, length, dtype, self.pattern.reach(), "kv_heads", k=size, v=size)

    def cross_layer_arrays(self, width: int) -> dict[str, CrossLayerShape]:
        """Returns the shape and axes of each array that later layers share, without batch and sequence."""
        if self.value_residual is None:
            return {}
        return {"value_residual": ((self.kv_heads, self.head_width(width)), ("kv_heads", "head_dim"))}

    def _keys_and_values(self, width: int) -> dict[str, CrossLayerShape]:
        shape = ((self.kv_heads, self.head_width(width)), ("kv_heads", "head_dim"))
        return {"keys": shape, "values": shape}

    def arrays_to_hand_on(self, width: int) -> dict[str, CrossLayerShape]:
        """Returns the arrays that a later layer can take from this one, without batch and sequence."""
        return self._keys_and_values(width) if self.kv_from_layer is None else {}

    def taken_arrays(self, width: int) -> tuple[int, dict[str, CrossLayerShape]] | None:
        """Returns the number of the layer whose keys and values this layer sees, and their shapes."""
        return None if self.kv_from_layer is None else (self.kv_from_layer, self._keys_and_values(width))

    def head_width(self, width: int) -> int:
        """Returns H at a model width, with None resolved."""
        return width // self.num_heads if self.head_dim is None else self.head_dim


class GroupedQueryAttention(nnx.Module):
    """Projections to heads, attention, output projection."""

    def __init__(
        self,
        option: GroupedQuery,
        width: int,
        dropout: float,
        reductions: str,
        make: ParameterMaker,
        position: LayerPosition | None = None,
    ) -> None:
        """Args: the option, the model width D, the dropout on weights, the reduction dtype, the maker, positions."""
        self.option = option
        self.position = position = NoPositions() if position is None else position
        self.dropout = dropout
        self.reductions = reductions
        n, k, h = option.num_heads, option.kv_heads, option.head_width(width)
        self.query = make.matrix("projection", (width, n, h), ("embed", "heads", "head_dim"))
        own_keys = option.kv_from_layer is None
        own_values = own_keys and not option.values_from_keys
        self.key = make.matrix("projection", (width, k, h), ("embed", "kv_heads", "head_dim")) if own_keys else None
        self.value = make.matrix("value", (width, k, h), ("embed", "kv_heads", "head_dim")) if own_values else None
        self.output = make.matrix("residual", (n, h, width), ("heads", "head_dim", "embed"), inputs=2)
        biased, out = option.qkv_bias, option.output_bias
        self.query_bias = make.zeros((n, h), ("heads", "head_dim")) if biased else None
        self.key_bias = make.zeros((k, h), ("kv_heads", "head_dim")) if biased and own_keys else None
        self.value_bias = make.zeros((k, h), ("kv_heads", "head_dim")) if biased and own_values else None
        self.output_bias = make.zeros((width,), ("embed",)) if out else None
        norm = option.qk_norm
        self.query_norm = None if norm is None else norm.build(n, h, "heads", make, reductions)
        self.key_norm = None if norm is None or not own_keys else norm.build(k, h, "kv_heads", make, reductions)
        norm_of_values = None if option.value_norm is None else QKNorm(norm=option.value_norm)
        self.value_norm = None if norm_of_values is None else norm_of_values.build(k, h, "kv_heads", make, reductions)
        self.gate, self.gate_bias = self._make_gate(width, n, h, make)
        values = option.value_residual
        self.value_residual = None if values is None else values.build(make)
        self.sink = make.zeros((n,), ("heads",), "sink") if option.sinks else None
        self.position_bias = position.bias_table(n, make)

    def _make_gate(self, width: int, n: int, h: int, make: ParameterMaker) -> tuple[nnx.Param | None, nnx.Param | None]:
        """Returns the projection to the output gate and its bias; None for each that the option does not have."""
        if self.option.output_gate == "none":
            return None, None
        per_head = self.option.output_gate == "head"
        size, axes = ((n,), ("heads",)) if per_head else ((n, h), ("heads", "head_dim"))
        gate = make.matrix("projection", (width, *size), ("embed", *axes))
        return gate, make.zeros(size, axes) if self.option.gate_bias else None

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: AttentionCache | None
    ) -> tuple[jax.Array, AttentionCache | None]:
        """Maps (B, T, D) to (B, T, D); with a cache, queries see the keys that the cache returns."""
        assert context.visibility is not None
        q_BTNH = self._norm_and_rotate(
            project(x_BTD, self.query, context.layout, self.query_bias), self.query_norm, context
        )
        if self.option.scale_by_layer:
            assert context.layer is not None
            q_BTNH = (q_BTNH.astype(jnp.float32) / (context.layer + 1)).astype(q_BTNH.dtype)
        if self.option.temperature is not None:
            q_BTNH = self.option.temperature.apply(q_BTNH, context.visibility.queries.positions())
        q_BTNH = context.shard(context.tap("query", q_BTNH), ("batch", "query_sequence", "heads", "head_dim"))
        k_BTKH, v_BTKH, visibility, cache = self._keys_and_values(x_BTD, context, cache)
        y_BTNH = self._attend(q_BTNH, k_BTKH, v_BTKH, visibility.with_pattern(self.option.pattern), context)
        if self.gate is not None:
            gate_BTNH = jax.nn.sigmoid(project(x_BTD, self.gate, context.layout, self.gate_bias))
            y_BTNH = y_BTNH * (gate_BTNH[..., None] if self.option.output_gate == "head" else gate_BTNH)
        y_BTNH = context.shard(context.tap("mixer_heads", y_BTNH), ("batch", "query_sequence", "heads", "head_dim"))
        return project(y_BTNH, self.output, context.layout, self.output_bias, contract=2), cache

    def _keys_and_values(
        self, x_BTD: jax.Array, context: Context, cache: AttentionCache | None
    ) -> tuple[jax.Array, jax.Array, Visibility, AttentionCache | None]:
        """Returns keys and values (B, S, K, H), the queries that see them, and the cache with those of new tokens."""
        assert context.visibility is not None
        visibility = context.visibility
        if (source := self.option.kv_from_layer) is not None:
            k_BSKH, v_BSKH = context.take("keys", source), context.take("values", source)
            if isinstance(k_BSKH, tuple):
                k_BSKH, coordinates = k_BSKH
                visibility = visibility.with_keys(coordinates)
            return k_BSKH, v_BSKH, visibility, None
        assert self.key is not None
        k_BTKH = project(x_BTD, self.key, context.layout, self.key_bias)
        v_BTKH = k_BTKH if self.value is None else project(x_BTD, self.value, context.layout, self.value_bias)
        # Sharded like x; otherwise the compiler may gather x, which is wider, to compute the keys of all positions.
        k_BTKH, v_BTKH = (
            context.shard(x, ("batch", "query_sequence", "kv_heads", "head_dim")) for x in (k_BTKH, v_BTKH)
        )
        v_BTKH = self._clip(v_BTKH if self.value_norm is None else self.value_norm(v_BTKH))
        v_BTKH = v_BTKH if self.value_residual is None else self.value_residual(v_BTKH, context)
        k_BTKH = self._norm_and_rotate(k_BTKH, self.key_norm, context)
        # Without a cache, `attend` gathers the keys of other devices, or sends them in a ring.
        axes = ("batch", "query_sequence" if cache is None else "key_sequence", "kv_heads", "head_dim")
        k_BTKH = context.shard(context.tap("key", k_BTKH), axes)
        v_BTKH = context.shard(context.tap("value", v_BTKH), axes)
        if cache is None:
            context.hand_on(keys=k_BTKH, values=v_BTKH)
            return k_BTKH, v_BTKH, visibility, None
        cache, view = cache.extend({"k": k_BTKH, "v": v_BTKH}, context.index_BT, context.lengths_B)
        k_BSKH, v_BSKH = view.arrays["k"], view.arrays["v"]
        context.hand_on(keys=(k_BSKH, view.keys), values=v_BSKH)
        return k_BSKH, v_BSKH, visibility.with_keys(view.keys), cache

    def _attend(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, visibility: Visibility, context: Context
    ) -> jax.Array:
        """Returns the weighted sums of the values that queries see, (B, T, N, H)."""
        scale = q_BTNH.shape[-1] ** -0.5 if self.option.scale is None else self.option.scale
        scoring = Scoring(scale, self.option.logit_softcap, self.reductions)
        table = context.shared_bias if self.position_bias is None else self.position_bias[...]
        table = None if table is None else round_to_dtype(table, q_BTNH.dtype)
        bias = self.position.bias(self.option.num_heads, table)
        sink_N = None if self.sink is None else round_to_dtype(self.sink[...], q_BTNH.dtype)
        context.offer(
            "attention_weights",
            lambda: kernels.attention_weights(q_BTNH, k_BSKH, visibility, scoring, bias=bias, sink_N=sink_N),
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
            sink_N=sink_N,
            dropout=self.dropout,
            dropout_key=context.next_dropout_key() if self.dropout else None,
            layout=context.layout,
            kernels=context.kernels.named("attention"),
        )

    def _norm_and_rotate(self, x_BTNH: jax.Array, norm: Norm | None, context: Context) -> jax.Array:
        """Returns queries or keys: normalised, clipped, and rotated by their positions."""
        if norm is None:
            return rotate(self._clip(x_BTNH), context.rotary)
        assert self.option.qk_norm is not None
        if self.option.qk_norm.after_positions:
            return norm(rotate(self._clip(x_BTNH), context.rotary))
        return rotate(self._clip(norm(x_BTNH)), context.rotary)

    def _clip(self, x_BTNH: jax.Array) -> jax.Array:
        limit = self.option.qkv_clip
        return x_BTNH if limit is None else jnp.clip(x_BTNH, -limit, limit)
