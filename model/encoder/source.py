"""The source of an encoder-decoder model: the tokens that a pass is given, and their stream that its layers read."""

import jax
import jax.numpy as jnp
from flax import struct

from model.kernels.visibility import Coordinates, Visibility, bidirectional

# The document of padding: no token of a target has it.
PADDING = -1


@struct.dataclass
class Source:
    """The tokens of a source, as an argument of `model.transformer.stream`.

    Attributes:
      tokens_BS: token ids (int32).
      positions_BS: their positions, which increase within a document; None for 0 to S-1.
      segment_ids_BS: the document of each token: tokens see each other, and are seen by tokens of the target, only
        within a document; `PADDING` for tokens that no target sees. None for rows of one document without padding.
    """

    tokens_BS: jax.Array
    positions_BS: jax.Array | None = None
    segment_ids_BS: jax.Array | None = None

    @classmethod
    def of_lengths(cls, tokens_BS: jax.Array, lengths_B: jax.Array) -> "Source":
        """Returns rows of one document each, of so many tokens; those after them are padding."""
        return cls(tokens_BS=tokens_BS, segment_ids_BS=segments_of_lengths(tokens_BS.shape[1], lengths_B))


@struct.dataclass
class EncodedSource:
    """A source after the encoder.

    Attributes:
      stream_BSD: the stream of its tokens, after the encoder's last norm.
      segment_ids_BS: the document of each token, as in `Source`.
    """

    stream_BSD: jax.Array
    segment_ids_BS: jax.Array | None = None


def segments_of_lengths(count: int, lengths_B: jax.Array) -> jax.Array:
    """Returns the documents of rows of `count` slots: each has one document of so many tokens, then padding."""
    return jnp.where(jnp.arange(count) < lengths_B[:, None], 0, PADDING)


def visible_source(targets: Coordinates, sources: int, segment_ids_BS: jax.Array | None) -> Visibility:
    """Returns which of the S tokens of a source each token of a target sees: those of its document.

    A target without documents is document 0.
    """
    if segment_ids_BS is None:
        return bidirectional(Coordinates(targets.count), Coordinates(sources))
    of_targets = targets.segment_ids
    if of_targets is None:
        of_targets = jnp.zeros((segment_ids_BS.shape[0], targets.count), jnp.int32)
    return bidirectional(
        Coordinates(targets.count, segment_ids=of_targets), Coordinates(sources, segment_ids=segment_ids_BS)
    )
