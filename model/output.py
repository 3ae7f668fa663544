"""The results of a forward pass, without and with logits."""

import dataclasses

import jax

from model.stack import LayerCaches


@dataclasses.dataclass(frozen=True)
class Output:
    """The residual stream, and the other results of a forward pass.

    Attributes:
      stream_BTD: the residual stream after the final norm, from which logits are made.
      cache: the cache after the pass, if the pass was given one.
      taps: the taps that the caller asked for.
      losses: the auxiliary losses of training, by name: sums over the tokens that count, and over layers.
      measurements: sums over the tokens that count, by stack of layers and then by name, with a leading layer axis.
    """

    stream_BTD: jax.Array
    cache: LayerCaches | None
    taps: dict[str, jax.Array]
    losses: dict[str, jax.Array]
    measurements: dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class OutputWithLogits(Output):
    """The results of a forward pass, with logits.

    Attributes:
      logits_BTV: the logits of all tokens.
    """

    logits_BTV: jax.Array
