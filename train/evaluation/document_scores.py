"""The scores of single documents, collected window by window; a document is finished when all its windows are scored.

Scores that were stored by an earlier, interrupted call (train/evaluation/stored_scores.py) take the place of computed
ones. A document is known again by its number, its name and its tokens.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model.errors import UserError
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.details import DetailSums, TokenScores
from train.evaluation.documents import Document
from train.evaluation.measures import LossSums
from train.evaluation.windows import Window


@dataclasses.dataclass
class DocumentScore:
    """The scored tokens of one document.

    Attributes:
      number: its number among all documents that were given, from 0.
      name, domain: those of the document.
      fingerprint: a checksum of its tokens.
      sums: the loss and the sizes.
      weighted: the sum of losses and the number of tokens, with the weights of windows (train/evaluation/windows.py).
      details: further sums, if they were asked for.
      ids: its first tokens, as many as were asked for, with the ids before the first scored one.
      losses: the losses in nats of the last len(losses) of `ids`.
    """

    number: int
    name: str
    domain: str
    fingerprint: int
    sums: LossSums
    weighted: tuple[float, float] = (0.0, 0.0)
    details: DetailSums | None = None
    ids: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes the same score, to the bit."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"details": None if self.details is None else self.details.as_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DocumentScore":
        """The score that `as_json` wrote."""
        details = values["details"]
        tuples = {name: tuple(values[name]) for name in ("weighted", "ids", "losses")}
        return cls(
            **{
                **values,
                **tuples,
                "sums": LossSums(*values["sums"]),
                "details": None if details is None else DetailSums.from_json(details),
            }
        )


@dataclasses.dataclass(frozen=True)
class Kept:
    """How many tokens to keep with their losses: the first of each document, until a domain, or all, has enough."""

    of_document: int
    of_domain: int
    in_all: int = 50_000


NOTHING_KEPT = Kept(0, 0)


@dataclasses.dataclass
class _Open:
    """A document whose windows are not all scored."""

    score: DocumentScore
    windows_left: int
    losses: np.ndarray  # of the kept tokens


class Collector:
    """Collects the scores of documents.

    Attributes:
      finished: the scores of finished documents, by number.
    """

    def __init__(
        self,
        length: int,
        *,
        detailed: bool,
        kept: Kept = NOTHING_KEPT,
        stored: Mapping[int, DocumentScore] | None = None,
        on_finish: Callable[[DocumentScore], None] = lambda score: None,
    ) -> None:
        self._length, self._detailed, self._kept, self._on_finish = length, detailed, kept, on_finish
        self._stored = stored or {}
        self._open: dict[int, _Open] = {}
        self._kept_of_domain: dict[str, int] = {}
        self.finished: dict[int, DocumentScore] = {}

    def begin(self, number: int, document: Document, stream: np.ndarray, first: PrefixSize, num_windows: int) -> None:
        """Takes a document with a scored token.

        Args:
          number: its number among all documents.
          document: the document.
          stream: its tokens, after the mark that it begins after, if there is one.
          first: the part of its text that is not scored.
          num_windows: the number of its windows.

        Raises:
          UserError: when another document was stored under this number.
        """
        left = self._kept.of_domain - self._kept_of_domain.get(document.domain, 0)
        left_in_all = self._kept.in_all - sum(self._kept_of_domain.values())
        count = max(0, min(self._kept.of_document, left, left_in_all, len(stream) - 1))
        self._kept_of_domain[document.domain] = self._kept_of_domain.get(document.domain, 0) + count
        score = DocumentScore(
            number,
            document.name,
            document.domain,
            zlib.crc32(np.ascontiguousarray(stream, np.int64).tobytes()),
            LossSums(
                0.0,
                len(stream) - 1,
                document.num_bytes - first.bytes,
                document.num_words - first.words,
                characters=document.num_characters - first.characters,
            ),
            details=DetailSums.empty(self._length) if self._detailed else None,
            ids=tuple(document.ids[: count + len(document.ids) - (len(stream) - 1)].tolist()) if count else (),
        )
        if (known := self._stored.get(number)) is not None:
            if (known.name, known.fingerprint) != (score.name, score.fingerprint):
                raise UserError(
                    f"the stored results have {known.name} as document {number + 1}, and the text has {score.name} "
                    "there, or it has changed since: delete the file of results, or name another one"
                )
            self.finished[number] = dataclasses.replace(known, domain=score.domain)
        else:
            self._open[number] = _Open(score, num_windows, np.zeros(count, np.float32))

    def is_finished(self, number: int) -> bool:
        """Whether a document needs no further window."""
        return number not in self._open

    def add(self, number: int, window: Window, scores: TokenScores) -> None:
        """Adds the scored tokens of a window; nothing if the document is finished."""
        if (one := self._open.get(number)) is None:
            return
        loss, score, count = float(scores.nll.sum()), one.score, len(scores.nll)
        score.sums = score.sums._replace(nll=score.sums.nll + loss)
        score.weighted = (score.weighted[0] + window.weight * loss, score.weighted[1] + window.weight * count)
        if score.details is not None:
            score.details.add(scores, window.first_scored - window.begin + 1)
        part = one.losses[window.first_scored : window.first_scored + count]
        part[:] = scores.nll[: len(part)]
        one.windows_left -= 1
        if not one.windows_left:
            score.losses = tuple(one.losses.tolist())
            self.finished[number] = score
            del self._open[number]
            self._on_finish(score)

    def scores(self) -> list[DocumentScore]:
        """The scores of all documents, in their order."""
        assert not self._open, list(self._open)
        return [self.finished[number] for number in sorted(self.finished)]
