"""Additive attention: a small network scores each token of the source for each query.

Bahdanau, Cho, Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", section 3.1 and
appendix A.1.2. With the state s of a target's token and the annotation h of a source's token, which is its vector after
the encoder, the score is v^T tanh(W s + U h); the weights are its softmax over the source, and the mean of the
annotations by these weights is mapped to the stream by C. In the paper s is the state before the token; here it is what
the layer's mixer made of the tokens up to it, and the next layer's recurrence reads the mean.

Scores are made for a few queries at a time: tanh has an entry for each query, token of the source and unit.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.dropout import drop
from model.encoder.cache import SourceCache, empty_source_cache
from model.encoder.source import visible_source
from model.errors import UserError
from model.kernels.visibility import Visibility
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like
from model.parameters.projections import project

# The most entries of tanh that a block of queries of one row has, in one row of a batch.
BLOCK_ENTRIES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdditiveAttention:
    """See the module.

    Attributes:
      units: the number H of units of the network that scores; None for the model width.
    """

    reads_pages: ClassVar[bool] = False

    units: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.units is not None and self.units < 1:
            yield "units", f"must be at least 1, or None for the model width, got {self.units}"

    def problems_with(self, width: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields nothing: it fits every width."""
        yield from ()

    def num_units(self, width: int) -> int:
        """Returns H at a model width, with None resolved."""
        return width if self.units is None else self.units

    def build(self, width: int, dropout: float, reductions: str, make: ParameterMaker) -> "AdditiveLayer":
        """Returns the module of one layer; arguments as for `MixerOption.build`."""
        return AdditiveLayer(self, width, dropout, reductions, make)

    def empty_cache(self, width: int, batch: int, slots: int, dtype: str) -> SourceCache:
        """Returns the cache of one layer before a source of at most `slots` tokens is read: U h and h."""
        return empty_source_cache(batch, slots, 1, self.num_units(width), dtype, value_dim=width)

    def cost(self, width: int, targets: int, sources: int) -> int:
        """Returns the operations of a forward pass: W, U, v for all pairs, means of annotations, C."""
        h, pairs = self.num_units(width), targets * sources
        return 2 * (width * h * (targets + sources) + pairs * (h + width) + width * width * targets)


class AdditiveLayer(nnx.Module):
    """The network that scores, weights, mean of annotations, output projection."""

    def __init__(
        self, option: AdditiveAttention, width: int, dropout: float, reductions: str, make: ParameterMaker
    ) -> None:
        """Args: the option, the model width D, the dropout on weights, the reduction dtype, the maker."""
        self.dropout, self.reductions = dropout, reductions
        units = option.num_units(width)
        self.query = make.matrix("projection", (width, 1, units), ("embed", "heads", "head_dim"))
        self.key = make.matrix("projection", (width, 1, units), ("embed", "heads", "head_dim"))
        self.score = make.matrix("projection", (units, 1), ("head_dim", None))
        self.output = make.matrix("residual", (1, width, width), ("heads", "head_dim", "embed"), inputs=2)

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: SourceCache | None
    ) -> tuple[jax.Array, SourceCache | None]:
        """Maps (B, T, D) to (B, T, D). A pass with a source fills the cache if it has one; others read the cache.

        Raises UserError for a mesh that splits sequences.
        """
        for axis in ("query_sequence", "key_sequence"):
            if context.layout.ways(axis) > 1:
                raise UserError("AdditiveAttention does not split sequences; leave the mesh axis 'context' out")
        assert context.visibility is not None
        axes = ("batch", "query_sequence", "heads", "head_dim")
        q_BTNH = context.shard(context.tap("cross_query", project(x_BTD, self.query, context.layout)), axes)
        if context.source is not None:
            k_BSKH = project(context.source.stream_BSD, self.key, context.layout)
            k_BSKH = context.shard(context.tap("cross_key", k_BSKH), axes)
            v_BSKH = context.tap("cross_value", context.source.stream_BSD[:, :, None])
            segment_ids_BS = context.source.segment_ids_BS
            cache = None if cache is None else cache.filled(k_BSKH, v_BSKH, segment_ids_BS)
        else:
            assert cache is not None, "a pass without a source reads one from the cache"
            k_BSKH, v_BSKH, segment_ids_BS = cache.kept()
        visibility = visible_source(context.visibility.queries, k_BSKH.shape[1], segment_ids_BS)
        q_BTH, k_BSH, v_BSD = q_BTNH[:, :, 0], k_BSKH[:, :, 0], v_BSKH[:, :, 0]
        context.offer("cross_weights", lambda: self._weights(q_BTH, k_BSH, visibility)[:, None].astype(q_BTH.dtype))
        key = context.next_dropout_key() if self.dropout else None
        y_BTND = self._attend(q_BTH, k_BSH, v_BSD, visibility, key)[:, :, None]
        y_BTND = context.shard(context.tap("cross_heads", y_BTND), axes)
        return project(y_BTND, self.output, context.layout, contract=2), cache

    def _weights(self, q_BTH: jax.Array, k_BSH: jax.Array, visibility: Visibility) -> jax.Array:
        """Returns the weight of each token of the source, (B, T, S) in the reduction dtype."""
        hidden_BTSH = jnp.tanh(q_BTH[:, :, None] + k_BSH[:, None])
        score_H = cast_like(self.score[...], hidden_BTSH)[:, 0]
        s_BTS = jnp.einsum("BTSH,H->BTS", hidden_BTSH, score_H, preferred_element_type=jnp.dtype(self.reductions))
        mask_BTS = visibility.mask()
        return jax.nn.softmax(s_BTS if mask_BTS is None else jnp.where(mask_BTS, s_BTS, jnp.finfo(s_BTS.dtype).min))

    def _attend(
        self, q_BTH: jax.Array, k_BSH: jax.Array, v_BSD: jax.Array, visibility: Visibility, key: jax.Array | None
    ) -> jax.Array:
        """Returns the mean of annotations for each query, (B, T, D), a block of queries at a time."""
        batch, length, units = q_BTH.shape
        size = min(length, max(1, BLOCK_ENTRIES // (k_BSH.shape[1] * units)))
        blocks = -(-length // size)
        padded = visibility.padded(blocks * size, k_BSH.shape[1])

        def block(inputs: Any) -> jax.Array:
            number, q_BTH = inputs
            visible = padded.sliced(number * size, size, 0, k_BSH.shape[1])
            weights_BTS = self._weights(q_BTH, k_BSH, visible)
            weights_BTS = drop(weights_BTS, self.dropout, None if key is None else jax.random.fold_in(key, number))
            return jnp.einsum("BTS,BSD->BTD", weights_BTS.astype(v_BSD.dtype), v_BSD)

        if blocks == 1:
            return block((0, q_BTH))
        q_BTH = jnp.pad(q_BTH, ((0, 0), (0, blocks * size - length), (0, 0)))
        by_block = q_BTH.reshape(batch, blocks, size, units).swapaxes(0, 1)
        y_ZBTD = jax.lax.map(jax.checkpoint(block), (jnp.arange(blocks), by_block))
        return y_ZBTD.swapaxes(0, 1).reshape(batch, blocks * size, -1)[:, :length]
