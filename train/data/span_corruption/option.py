"""The option of running text with spans of tokens taken out, which an encoder-decoder model learns to write.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5), section
3.1.4. How spans are drawn: `train.data.span_corruption.corruption`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from model.options.field_marks import EXECUTION_ONLY
from train.data.config import (
    Bytes,
    Characters,
    Data,
    HeldOutDocuments,
    HuggingFace,
    Numbers,
    SentencePiece,
    SentencePieceFile,
    SeparateText,
    Source,
    Tail,
    TokenizerOf,
    problems_of_batches,
    problems_of_minima,
)
from train.data.interface import CheckTokenizer, DataOption, Engine
from train.data.pairs.option import SOURCE_FIELDS
from train.data.span_corruption.corruption import hidden_and_spans, longest_text
from train.files.paths import IS_PATH, AnyPath

if TYPE_CHECKING:
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset
    from train.data.span_corruption.batches import SpanBatches, SpanEvaluation

MAX_DENSITY = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(DataOption):
    """Rows of text with hidden spans. Batch n is a pure function of this option, of the text, and of n.

    Documents follow each other in a row, which is as long as its source allows; T, the length of targets, follows from
    the other fields (`sequence_length`). Every epoch cuts the text at other places and hides other spans.

    Attributes:
      path, tokenizer, validation: the text, as in `Data`.
      noise_density: the share of hidden tokens.
      mean_span_length: the mean length of hidden spans, in tokens.
      first_sentinel: the id of the sentinel of the first span, from which the others count down; None for ids of their
        own, the last of `model.vocab_size`, which is then larger than that of the tokenizer by `own_ids`.
      final: what ends a target: "sentinel" for one more sentinel, as in the paper, or "end" for the tokenizer's mark
        that ends documents, which then ends the source too, as T5 was trained.
      source_length: S, the most tokens of a source.
      batch_size: the rows of all hosts together.
      seed: the seed of the order and of the spans.
      prefetch: the number of batches made ahead.
    """

    path: str | tuple[Source, ...] = dataclasses.field(default="stdlib", metadata=IS_PATH)
    tokenizer: SentencePiece | SentencePieceFile | HuggingFace | Bytes | Characters | Numbers | TokenizerOf | None = (
        SentencePiece()
    )
    validation: HeldOutDocuments | Tail | SeparateText | None = HeldOutDocuments()
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    first_sentinel: int | None = None
    final: Literal["sentinel", "end"] = "sentinel"
    source_length: int = 256
    batch_size: int = 16
    seed: int = 0
    prefetch: int = dataclasses.field(default=16, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, batch_size=1, source_length=4, seed=0, prefetch=0)
        if not self.path:
            yield "path", "expected a path or at least one Source, got nothing"
        if not 0 < self.noise_density <= MAX_DENSITY:
            yield "noise_density", f"must be above 0 and at most {MAX_DENSITY}, got {self.noise_density}"
        elif self.mean_span_length < 1:
            yield "mean_span_length", f"must be at least 1, got {self.mean_span_length}"
        elif self.first_sentinel is not None and self.first_sentinel < self.num_sentinels - 1:
            yield (
                "first_sentinel",
                f"{self.first_sentinel} has no room for {self.num_sentinels} sentinels, which count down from it; give "
                f"at least {self.num_sentinels - 1}, or None for ids of their own",
            )
        else:
            yield from problems_of_batches(self, "rows")

    @property
    def text_length(self) -> int:
        """The tokens of text in a row."""
        density, mean = min(self.noise_density, MAX_DENSITY), max(self.mean_span_length, 1.0)
        return longest_text(self.source_length, density, mean, self.final == "end")

    @property
    def sequence_length(self) -> int:
        """T, the most tokens of a target: hidden tokens, the sentinels of their spans, and what ends it."""
        return sum(self._hidden_and_spans) + 1

    @property
    def num_sentinels(self) -> int:
        """The number of different sentinels."""
        return self._hidden_and_spans[1] + (self.final == "sentinel")

    @property
    def _hidden_and_spans(self) -> tuple[int, int]:
        return hidden_and_spans(self.text_length, self.noise_density, max(self.mean_span_length, 1.0))

    @property
    def own_ids(self) -> int:
        """See `DataOption`: the sentinels."""
        return self.num_sentinels if self.first_sentinel is None else 0

    @property
    def cross_document_attention(self) -> bool:
        """Whether all tokens of a row see each other: always."""
        return True

    @property
    def source_fields(self) -> tuple[str, ...]:
        """See `DataOption`."""
        return SOURCE_FIELDS

    @property
    def no_text(self) -> str | None:
        """See `DataOption`."""
        return "spans are taken out of its text"

    def as_data(self) -> Data:
        """The option of the text before spans are taken out."""
        return Data(
            path=self.path,
            tokenizer=self.tokenizer,
            validation=self.validation,
            batch_size=self.batch_size,
            sequence_length=self.text_length,
            cross_document_attention=True,
            seed=self.seed,
            prefetch=self.prefetch,
        )

    def problems_with_vocabulary(self, size: int) -> Iterator[tuple[str, str]]:
        """See `DataOption`."""
        yield from self.as_data().problems_with_vocabulary(size)
        if self.first_sentinel is not None and self.first_sentinel >= size:
            yield "data.first_sentinel", f"must be an id of model.vocab_size={size}, got {self.first_sentinel}"

    def require_validation(self) -> None:
        """See `DataOption`."""
        self.as_data().require_validation()

    def shared_settings(self) -> Mapping[str, Any] | None:
        """See `DataOption`."""
        return self.as_data().shared_settings()

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`."""
        return self.as_data().prepare(into, progress, workers, check, engine)

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> SpanBatches:
        """See `DataOption`."""
        from train.data.span_corruption.batches import SpanBatches

        return SpanBatches(dataset, self, "train", fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> SpanEvaluation:
        """See `DataOption`; the spans of a split are always the same ones."""
        from train.data.span_corruption.batches import SpanEvaluation

        return SpanEvaluation(dataset, self, split, limit, rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`: a line for each span of a document, then the source and the target of each row."""
        from train.data.span_corruption.batches import shown_step

        return shown_step(self.training_batches(dataset, ("targets",)), step, rows, characters)
