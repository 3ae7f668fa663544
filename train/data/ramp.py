"""A batch that grows: its size at step n, and the rows of all batches before n, in closed form.

Small batches early spend fewer tokens on the same loss, because the gradient noise scale grows during training
(McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", section 2.4).
Statistics(noise_scale=True) measures it (train/optimizers/noise_scale.py).
Sizes are powers of two times the first, so that the step is compiled once for each doubling.
"""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp:
    """The batch begins with `start` sequences, and doubles every `double_every` steps until it is data.batch_size.

    Step n (from 0) has the rows that follow those of step n - 1 in the order of the data, so that batch n remains a
    pure function of the data, the seed and n, and no row is left out or read twice.
    """

    start: int
    double_every: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("start", "double_every"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"

    def problems_with(self, largest: int) -> Iterator[tuple[str, str]]:
        """Yields a start from which doubling does not reach the largest size."""
        if self.start >= 1 and (largest % self.start or (ratio := largest // self.start) & (ratio - 1) or ratio < 2):
            fits = [str(largest >> i) for i in range(1, largest.bit_length()) if largest % (1 << i) == 0]
            use = f"use {', '.join(fits)}" if fits else "use an even batch_size"
            yield "start", f"{self.start} does not double to batch_size={largest}; {use}"

    def sizes(self, largest: int) -> list[int]:
        """All sizes, rising."""
        return [self.start << i for i in range((largest // self.start).bit_length())]

    def size(self, n: int, largest: int) -> int:
        """The size of batch n."""
        doublings = (largest // self.start).bit_length() - 1
        return self.start << min(n // self.double_every, doublings)

    def rows_before(self, n: int, largest: int) -> int:
        """The sum of the sizes of the batches before n."""
        full = min(n // self.double_every, (largest // self.start).bit_length() - 1)
        doubled = self.start * self.double_every * ((1 << full) - 1)  # start * every * (1 + 2 + 4 + ...)
        return doubled + (n - full * self.double_every) * self.size(n, largest)


class Batched:
    """The sizes of batches, for data options with `batch_size`; one with a field `ramp` may have batches that grow."""

    batch_size: int
    ramp: Ramp | None = None

    @property
    def texts_of_row(self) -> int:
        """The sequences of T places that a row of a batch has."""
        return 1

    def batch_size_at(self, n: int) -> int:
        """The sequences of batch n."""
        return self.batch_size if self.ramp is None else self.ramp.size(n, self.batch_size)

    def rows_before(self, n: int) -> int:
        """The sequences of all batches before n."""
        return n * self.batch_size if self.ramp is None else self.ramp.rows_before(n, self.batch_size)

    def grows_at(self, n: int) -> bool:
        """Whether batch n is larger than the one before."""
        return n > 0 and self.batch_size_at(n) > self.batch_size_at(n - 1)

    def batch_sizes(self) -> list[int]:
        """All sizes that batches have, rising."""
        return [self.batch_size] if self.ramp is None else self.ramp.sizes(self.batch_size)
