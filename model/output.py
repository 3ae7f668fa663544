"""What a forward pass returns."""

import dataclasses

import jax

from model.stack import LayerCaches


@dataclasses.dataclass(frozen=True)
class Output:
    """Logits, and what came with them.

    Attributes:
      logits_BTV: the logits.
      cache: the cache after it, if there was one.
      taps: those that were asked for.
      losses: what training minimises besides cross-entropy, by name: sums over the tokens that count, of all layers.
      measured: sums over the tokens that count, by stack of layers and then by name, layers in front.
    """

    logits_BTV: jax.Array
    cache: LayerCaches | None
    taps: dict[str, jax.Array]
    losses: dict[str, jax.Array]
    measured: dict[str, dict[str, jax.Array]]
