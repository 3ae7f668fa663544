"""Two models on the same text: the difference of each measure, with an interval over documents.

Models with the same tokenizer are compared per token, word, byte and character. Otherwise their tokens are different
parts of the text and a loss per token says nothing, so they are compared per byte and per character alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.errors import UserError
from train.evaluation.document_scores import DocumentScore
from train.evaluation.evaluate import Result, finite_or_none
from train.evaluation.measures import Tally
from train.lab.statistics.differences import Difference
from train.lab.statistics.documents import fewest_documents, paired_bootstrap
from train.run.loading import LoadedRun

# Of each measure: its denominator, and its unit in nats.
DENOMINATORS = {
    "loss": ("tokens", 1.0),
    "word_loss": ("words", 1.0),
    "bits_per_byte": ("bytes", math.log(2)),
    "bits_per_character": ("characters", math.log(2)),
}
OF_TEXT = ("bits_per_byte", "bits_per_character")  # with any tokenizer
OF_TOKENS = ("loss", "perplexity", "transformers_perplexity", "details")  # how names of measures per token begin
OTHER_TOKENIZERS = "the models have different tokenizers: they are compared per byte and per character, never per token"


@dataclasses.dataclass(frozen=True)
class Compared:
    """A measure of two models on the same documents.

    Attributes:
      base, other: the values.
      difference: other minus base with its interval; None for fewer than two documents.
    """

    base: float
    other: float
    difference: Difference | None

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        found: dict[str, Any] = {"base": finite_or_none(self.base), "other": finite_or_none(self.other)}
        return found | {"difference": None if self.difference is None else dataclasses.asdict(self.difference)}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models on the same text.

    Attributes:
      base, other: their results.
      same_tokenizer: whether their tokens are the same parts of the text.
      measures: the comparable measures over all documents.
      domains: the same for each domain, if there are several.
    """

    base: Result
    other: Result
    same_tokenizer: bool
    measures: dict[str, Compared]
    domains: dict[str, dict[str, Compared]]

    @property
    def lower_other(self) -> list[str]:
        """The measures of which the whole interval lies below 0: the other model is better by them."""
        found = ((name, one.difference) for name, one in self.measures.items())
        return [name for name, difference in found if difference is not None and difference.high < 0]

    def as_json(self) -> dict[str, Any]:
        """Both results and the comparison as JSON values; without loss per token if the tokenizers are different."""
        found: dict[str, Any] = {"same_tokenizer": self.same_tokenizer}
        found["measures"] = {name: one.as_json() for name, one in self.measures.items()}
        found["domains"] = {
            domain: {name: one.as_json() for name, one in measures.items()} for domain, measures in self.domains.items()
        }
        for name, result in (("base", self.base), ("other", self.other)):
            found[name] = result.as_json() if self.same_tokenizer else _without_tokens(result.as_json())
        return found


def _without_tokens(values: dict[str, Any]) -> dict[str, Any]:
    """A result without its losses and perplexities per token, in the domains too."""
    kept = {name: value for name, value in values.items() if not name.startswith(OF_TOKENS)}
    domains = kept.get("domains", {})
    if domains:
        kept["domains"] = {name: _without_tokens(domain) for name, domain in domains.items()}
        kept["macro_average"] = _without_tokens(kept["macro_average"])
    return kept


def same_tokens(base: LoadedRun, other: LoadedRun) -> bool:
    """Whether two models read a text as the same tokens after the same mark."""
    one, two = base.tokenizer, other.tokenizer
    if one.begin_of_document != two.begin_of_document or one.own_begin_of_document != two.own_begin_of_document:
        return False
    return one.fingerprint() == two.fingerprint()


def compare(base: Result, other: Result, *, same_tokenizer: bool, draws: int = 10_000, seed: int = 0) -> Pair:
    """Compares two results of the same documents, in the same order.

    Args:
      base, other: the results; the difference is other minus base.
      same_tokenizer: `same_tokens` of the models.
      draws, seed: of the bootstrap over documents.

    Raises:
      UserError: when the results are of different documents.
    """
    pairs = _aligned(base, other)
    names = tuple(DENOMINATORS) if same_tokenizer else OF_TEXT
    domains = dict.fromkeys(one.domain for one, _ in pairs)

    def measured(some: Sequence[tuple[DocumentScore, DocumentScore]]) -> dict[str, Compared]:
        found = {name: _compared(name, some, draws, seed) for name in names}
        return {name: one for name, one in found.items() if one is not None}

    by_domain = {name: measured([pair for pair in pairs if pair[0].domain == name]) for name in domains}
    return Pair(base, other, same_tokenizer, measured(pairs), by_domain if len(domains) > 1 else {})


def _aligned(base: Result, other: Result) -> list[tuple[DocumentScore, DocumentScore]]:
    """The scores of the documents that both have: one without a scored token is in neither."""
    others = {one.number: one for one in other.scores}
    pairs = [(one, others[one.number]) for one in base.scores if one.number in others]
    for one, two in pairs:
        if (one.name, one.domain) != (two.name, two.domain):
            raise UserError(f"document {one.number + 1} is {one.name} for one model and {two.name} for the other")
    if not pairs:
        raise UserError("the two models have no document in common; evaluate both on the same text")
    return pairs


def _compared(
    name: str, pairs: Sequence[tuple[DocumentScore, DocumentScore]], draws: int, seed: int
) -> Compared | None:
    """A measure of both models; None if its denominator was not counted."""
    denominator, unit = DENOMINATORS[name]
    tallies = [Tally(each.sums for each in one) for one in zip(*pairs, strict=True)]
    sums = [tally.column("nll") / unit for tally in tallies]
    counts = [tally.column(denominator) for tally in tallies]
    if not all(count.sum() for count in counts):
        return None
    base, other = (float(x.sum() / n.sum()) for x, n in zip(sums, counts, strict=True))
    known = (
        len(pairs) >= fewest_documents()
        and all(np.all(n > 0) for n in counts)
        and all(np.all(np.isfinite(x)) for x in sums)
    )
    difference = paired_bootstrap(sums[0], counts[0], sums[1], counts[1], draws, seed) if known else None
    return Compared(base, other, difference)
