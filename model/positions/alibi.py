"""ALiBi: scores that fall with the distance between query and key, in place of position vectors.

Press et al. 2021, "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation", section 3.
"""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALiBi:
    """Adds scale * slope_n * (key position - query position) to the scores of head n; nothing is learned.

    Attributes:
      scale: 1 in the paper and in BLOOM; Falcon has that of products of queries and keys, H^-1/2.
      rounded: whether slope and position, and then their product, are rounded to bfloat16 before two of these are
        subtracted, as models were trained whose code computes them so (Falcon).
    """

    scale: float = 1.0
    rounded: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.scale <= 0:
            yield "scale", f"must be above 0, got {self.scale}; use NoPositions for no biases"


def slopes(num_heads: int) -> tuple[float, ...]:
    """The slope of every head, by the paper's rule.

    For a power of two N they are 2^(-8/N), 2^(-16/N), ..., 2^-8. For another number they are those of the largest power
    of two P below it, and then every second one of those of 2P, from the first on (the paper's code; BLOOM, 2022).
    """
    power = 2 ** (num_heads.bit_length() - 1)
    further = _geometric(2 * power)[::2]
    return (*_geometric(power), *further[: num_heads - power])


def _geometric(num_heads: int) -> tuple[float, ...]:
    return tuple(2 ** (-8 * n / num_heads) for n in range(1, num_heads + 1))
