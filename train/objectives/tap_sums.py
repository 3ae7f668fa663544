"""Sums and maxima over the counted tokens of a batch, of the taps that statistics ask for.

They are taken here and not in the layers, where a scan would need a collective for each layer; in a layer are only the
sums of one row.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Taps of one row (B, n, 2) for n heads or units: a maximum, and a sum over tokens.
SIZES = ("score_sizes", "unit_sizes")
LOG_Z = "log_z"  # no tap of the model: objectives with logits take it as one


def tap_sums(taps: Mapping[str, jax.Array], weights_BT: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the sums over counted tokens by name, and the maxima over them, both with a first axis of layers.

    Args:
      taps: (L, B, T), or those of `SIZES` (L, B, n, 2), of which sums and maxima are (L, n).
      weights_BT: the weight of each token; a token with the weight 0 is not counted.
    """
    sums, maxima = {}, {}
    for name, tap in taps.items():
        if name in SIZES:
            maxima[name], sums[name] = jnp.max(tap[..., 0], axis=1), jnp.sum(tap[..., 1], axis=1)
        else:
            sums[name] = jnp.sum(tap * weights_BT, axis=(1, 2))
    return sums, maxima
