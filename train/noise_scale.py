"""The gradient noise scale, from gradients of micro-batches beside that of their batch.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training": with the covariance S of the gradient of a token
and the true gradient G, the noise scale is B = tr(S) / |G|^2 (equation 2.9). A batch much smaller than B is mostly
noise, a much larger one wastes tokens: with a batch of B a run takes twice its fewest steps, and twice its fewest
tokens (section 2.2). tr(S) and |G|^2 are estimated without bias from the squared norms for two batch sizes (appendix
A.1); the ratio is one of means over many steps, since both are noisy.

Here the small batches are the micro-batches of gradient accumulation; a step without any makes two of its batch for
this alone. Rows are the independent draws; they are counted in tokens. Gradients are those of the trained parameters,
before clipping.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROLE = "noise_scale"  # of a line of statistics.jsonl
SPLIT = 2  # micro-batches of a step that accumulates no gradients
_DRAWS = 1000


class MicroBatch(NamedTuple):
    """The weight of a micro-batch, in tokens, and the squared norm of its share of the batch's gradient."""

    weight: jax.Array
    square: jax.Array


class Estimate(NamedTuple):
    """The noise scale in tokens, with the bounds of its interval."""

    tokens: float
    low: float
    high: float


def squared_norm(grads: Any) -> jax.Array:
    """The sum of the squares of all elements, float32."""
    leaves = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(grads)]
    return jnp.sum(jnp.stack(leaves))


def noise_and_signal(parts: MicroBatch, weight: jax.Array, square: jax.Array) -> dict[str, jax.Array]:
    """Unbiased estimates of tr(S), as `noise`, and of |G|^2, as `signal`; NaN where a micro-batch has no token.

    A mean over b tokens has E |g|^2 = |G|^2 + tr(S) / b. The mean of that over micro-batches, and the same for the
    whole batch, are two equations.

    Args:
      parts: of all micro-batches, arrays [P]; their gradients add up to that of the batch.
      weight: the tokens of the batch.
      square: the squared norm of its gradient.
    """
    small = jnp.mean(parts.square * jnp.square(weight / parts.weight))
    noise = (small - square) / (jnp.mean(1 / parts.weight) - 1 / weight)
    return {"noise": noise, "signal": square - noise / weight, "tokens": weight}


def estimate(lines: Sequence[Mapping[str, Any]], level: float = 0.95) -> Estimate | None:
    """The noise scale over lines of statistics.jsonl, with a bootstrap interval over steps.

    None where no line has it, or the gradient of all of them is not told from noise: their mean |G|^2 is not above 0.
    Other lines are ignored. A bound is infinite where resamples have such a mean.
    """
    pairs = [(line["noise"], line["signal"]) for line in lines if line.get("role") == ROLE]
    values = np.array([pair for pair in pairs if all(isinstance(x, int | float) for x in pair)], np.float64)
    values = values[np.isfinite(values).all(axis=1)] if len(values) else values
    if not len(values) or (means := values.mean(axis=0))[1] <= 0:
        return None
    drawn = values[np.random.default_rng(0).integers(len(values), size=(_DRAWS, len(values)))].mean(axis=1)
    ratios = np.where(drawn[:, 1] > 0, drawn[:, 0] / np.where(drawn[:, 1] > 0, drawn[:, 1], 1.0), np.inf)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Estimate(float(means[0] / means[1]), float(low), float(high))
