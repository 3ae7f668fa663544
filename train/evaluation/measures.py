"""Loss, perplexity, bits per byte and per character: the one module that computes them from sums over scored tokens.

Each is a quotient whose numerator and denominator cover the same tokens: bits per byte and per character and the
measures per word cover only the text, the loss per token also the marks that end documents, if they were scored. A
first token without any token before it is in neither.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from model.errors import UserError


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and its standard error over documents; the error is None for fewer than two documents."""

    value: float
    standard_error: float | None


class LossSums(NamedTuple):
    """The sums over the scored tokens of a document, or of a whole split if its documents are not known.

    Attributes:
      nll: the sum of -log p over the tokens of text that were scored, in nats.
      tokens, bytes, words: the number of these tokens, and the bytes and words of the original text in them.
      end_nll, end_tokens: the same sum over the marks that end documents, and their number.
      characters: the code points of the original text in the scored tokens; 0 if they were not counted.
    """

    nll: float
    tokens: int
    bytes: int
    words: int = 0
    end_nll: float = 0.0
    end_tokens: int = 0
    characters: int = 0


class Tally:
    """The entries that were scored so far."""

    def __init__(self, entries: Iterable[LossSums] = ()) -> None:
        self.entries = list(entries)

    def add(self, entry: LossSums) -> None:
        """Adds the entry of a further document or split."""
        self.entries.append(entry)

    def column(self, name: str) -> np.ndarray:
        """A field of all entries, float64 [entries]."""
        return np.array([getattr(entry, name) for entry in self.entries], np.float64)

    def count(self, name: str) -> int:
        """The sum of `tokens`, `bytes`, `words`, `characters` or `end_tokens`."""
        return sum(getattr(entry, name) for entry in self.entries)

    def measures(self) -> dict[str, Estimate]:
        """Loss per token (nats) and its exponential, the perplexity; the same per word; bits per byte and character.

        Whitespace separates words in the original text; the measures of words and of characters are left out if these
        were not counted.
        The error of exp(loss) is exp(loss) times that of the loss. A value that is too large for a float is infinite.
        Raises UserError when no token was scored.
        """
        if not self.count("tokens"):
            raise UserError("no token of text was scored, so there is no loss, no perplexity and no bits per byte")
        nll_D = self.column("nll")
        loss = ratio(nll_D + self.column("end_nll"), self.column("tokens") + self.column("end_tokens"))
        found = {"loss": loss, "perplexity": exponential(loss)}
        if self.count("words"):
            found["word_loss"] = ratio(nll_D, self.column("words"))
            found["word_perplexity"] = exponential(found["word_loss"])
        if self.count("bytes"):  # tokens that a task makes stand for no bytes
            found["bits_per_byte"] = ratio(nll_D / math.log(2), self.column("bytes"))
        if self.count("characters"):
            found["bits_per_character"] = ratio(nll_D / math.log(2), self.column("characters"))
        return found


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """sum(x) / sum(y) over documents, with the standard error of a ratio estimator.

    Documents are assumed to be drawn independently, and both sums vary with the draw. To first order (the delta method;
    Cochran 1977, "Sampling Techniques", section 2.11) the variance of R = sum(x) / sum(y) over D documents is
    D / (D - 1) * sum((x - R y)^2) / sum(y)^2.
    """
    total = float(denominators.sum())
    if total == 0:
        return Estimate(math.nan, None)
    value = float(numerators.sum()) / total
    count = len(numerators)
    if count < 2:
        return Estimate(value, None)
    with np.errstate(over="ignore", invalid="ignore"):  # if the loss is not finite, its error is not either
        residuals = numerators - value * denominators
        return Estimate(value, math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total)


def exponential(log: Estimate) -> Estimate:
    """The exponential of an estimate, to first order in its error; infinite above 709.78, the limit of floats."""
    try:
        value = math.exp(log.value)
    except OverflowError:
        value = math.inf
    return Estimate(value, None if log.standard_error is None else value * log.standard_error)
