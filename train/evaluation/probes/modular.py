"""Modular addition: a, b and a sign, of which the model is to give (a + b) mod p.

Power et al. 2022, "Grokking"; Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability": of
all p^2 pairs a share is trained on. A model learns these by heart at first, and much later all pairs.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from train.evaluation.probes.interface import Findings, Reader, Sequences, Task, at_least, measured, shifted


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModularAddition(Task):
    """Sequences "a b =", whose last target is (a + b) mod p; only that counts. The sign has the id p.

    Attributes:
      modulus: p.
      share: the share of pairs that is trained on.
      held_out: whether the sequences are of the other pairs. Validation takes these by itself.
    """

    modulus: int = 113
    share: float = 0.3
    held_out: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from at_least(self, modulus=3)
        if not 0 < self.share < 1:
            yield "share", f"must be above 0 and below 1, got {self.share}"

    @property
    def num_symbols(self) -> int:
        """The numbers and the sign."""
        return self.modulus + 1

    @property
    def length(self) -> int:
        """Two numbers and the sign."""
        return 3

    @classmethod
    def sized(cls, reader: Reader) -> "ModularAddition":
        """See `Task`."""
        return cls(modulus=max(3, min(113, reader.num_ids - 1)))

    def for_split(self, split: str) -> "ModularAddition":
        """See `Task`."""
        return self if split == "train" else dataclasses.replace(self, held_out=True)

    def pairs(self) -> np.ndarray:
        """The pairs (n, 2) that sequences are drawn from, always in the same order."""
        return _split(self.modulus, self.share)[int(self.held_out)]

    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """See `Prepared`."""
        known = self.pairs()
        chosen = known[[int(draw.integers(len(known))) for draw in draws]]
        return self.of_pairs(chosen)

    def of_pairs(self, pairs: np.ndarray) -> Sequences:
        """The sequences of some pairs (n, 2)."""
        sign, answer = np.full(len(pairs), self.modulus), pairs.sum(axis=1) % self.modulus
        symbols = np.stack([pairs[:, 0], pairs[:, 1], sign, answer], axis=1)
        return shifted(symbols, np.broadcast_to([0.0, 0.0, 1.0], (len(pairs), 3)))

    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """See `Prepared`."""
        return Findings(
            numbers=measured(made, nll_NT, hits_NT), baselines={"uniform": math.log(self.modulus)}, pictures=()
        )


@functools.lru_cache(maxsize=8)
def _split(modulus: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that are trained on, and the others; at least one of each."""
    every = np.stack(np.divmod(np.arange(modulus**2), modulus), axis=1)
    order = np.random.default_rng(0).permutation(len(every))
    count = min(max(1, round(share * len(every))), len(every) - 1)
    return every[order[:count]], every[order[count:]]
