"""The positions of the tokens of a pass, in rows and in documents, and the inputs of layers that follow from them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from model.attention.directions import Causal, Direction, refuse_without_decoding, visible_rows
from model.config import ModelConfig
from model.context import LayerInputs, Rows
from model.encoder.option import refuse_source
from model.errors import UserError
from model.interfaces import AttentionOption
from model.kernels.visibility import Coordinates, Visibility, causal, renumber_segments
from model.layers import Layer
from model.positions.absolute import Position
from model.positions.rotary import RotaryTable, rotary_table
from model.positions.scaling import document_lengths
from model.taps.request import TapSite

CAUSAL = Causal()


def inputs_of_rows(
    config: ModelConfig, rows: Rows, *, cached: bool = False, consecutive_positions: bool = False
) -> dict[str, Any]:
    """Returns the fields of a `Context` that depend on its rows.

    Raises UserError for documents and a cache, for rows that are too long, for a cache of a model without decoding, and
    for a source that the model cannot read or that it lacks.
    """
    if (length := rows.tokens_BT.shape[1]) > config.context_length:
        raise UserError(f"a sequence of {length} tokens is longer than context_length={config.context_length}")
    refuse_source(config.encoder, rows.source, cached)
    if cached:
        refuse_without_decoding(config, "cache")
    options = rows.positions_BT, rows.segment_ids_BT, rows.lengths_B, rows.text_lengths_B
    direction, prefix_BT = config.visibility, rows.prefix_BT
    batch, length = rows.tokens_BT.shape
    token_positions = TokenPositions(
        (batch, length), *options, cached=cached, consecutive_positions=consecutive_positions
    )
    site = TapSite(
        tokens_BT=rows.tokens_BT, positions_BT=token_positions.positions(), segment_ids_BT=rows.segment_ids_BT
    )
    return {
        "rows": rows,
        "index_BT": token_positions.indices(),
        "lengths_B": rows.lengths_B,
        "visibility": token_positions.visibility(direction, prefix_BT),
        "layer_inputs": token_positions.layer_inputs(config),
        "weights_BT": rows.weights_BT,
        "site": site,
    }


@dataclasses.dataclass(frozen=True)
class TokenPositions:
    """The arguments of `model.transformer.stream` that define the positions of tokens.

    Attributes:
      shape: (B, T).
      positions_BT, segment_ids_BT, lengths_B, text_lengths_B: the arguments of the same names.
      cached: whether the tokens continue those of a cache.
      consecutive_positions: the argument of the same name.
    """

    shape: tuple[int, int]
    positions_BT: jax.Array | None
    segment_ids_BT: jax.Array | None
    lengths_B: jax.Array | None
    text_lengths_B: jax.Array | None
    cached: bool
    consecutive_positions: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for documents together with a cache."""
        if self.cached and self.segment_ids_BT is not None:
            raise UserError(
                "segment_ids_BT and a cache exclude each other: a cached row is one document; leave out one"
            )

    def indices(self) -> jax.Array:
        """Returns the index of each token in its row, counted with the tokens in the cache if there is one."""
        index_BT = jnp.arange(self.shape[1], dtype=jnp.int32)[None]
        if not self.cached:
            return index_BT
        return jnp.broadcast_to(index_BT if self.positions_BT is None else self.positions_BT, self.shape)

    def positions(self) -> jax.Array:
        """Returns the position of each token."""
        return jnp.broadcast_to(self.indices(), self.shape) if self.positions_BT is None else self.positions_BT

    def visibility(self, direction: Direction = CAUSAL, prefix_BT: jax.Array | None = None) -> Visibility:
        """Returns which of these tokens each query sees; a cache adds the earlier tokens."""
        if self.cached:
            return direction.apply(causal(Coordinates(self.shape[1], index=self.indices())), prefix_BT)
        # If positions restart within a row and no segment ids separate documents, the keys of a window may be anywhere
        # earlier in the row.
        monotonic_positions = self.positions_BT is None or self.segment_ids_BT is not None
        tokens = Coordinates(self.shape[1], position=self.positions_BT, segment_ids=self.segment_ids_BT)
        # Without segment ids, two positions of a row may be those of two documents.
        consecutive = self.consecutive_positions and self.segment_ids_BT is not None
        known = {"monotonic_positions": monotonic_positions, "consecutive_positions": consecutive}
        return visible_rows(direction, tokens, self.lengths_B, prefix_BT, **known)

    def layer_inputs(self, config: ModelConfig) -> dict[Layer, LayerInputs]:
        """Returns the inputs that the layers of each kind share."""

        @functools.cache
        def rotary(position: Position, head_dim: int) -> RotaryTable | None:
            return rotary_table(position, self.positions(), head_dim, self._lengths)

        inputs = {}
        for layer in config.layers:
            if isinstance(layer.mixer, AttentionOption):
                inputs[layer] = LayerInputs(rotary=rotary(layer.position, layer.mixer.rotary_width(config.width)))
                continue
            real_BT = None if self.lengths_B is None else self.positions() < self.lengths_B[:, None]
            inputs[layer] = LayerInputs(segment_ids_BT=renumber_segments(self.segment_ids_BT), real_BT=real_BT)
        return inputs

    def _lengths(self) -> jax.Array:
        """See `model.positions.scaling.DocumentLengths`."""
        text_lengths_B = self.lengths_B if self.text_lengths_B is None else self.text_lengths_B
        if text_lengths_B is not None:
            return text_lengths_B[:, None]
        return document_lengths(self.positions_BT, self.segment_ids_BT, self.shape[1])
