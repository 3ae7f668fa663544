"""Constant factors on embeddings, on the outputs of sublayers, and on logits."""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Constant factors.

    Attributes:
      embedding: the factor on token embeddings, after their norm (Gemma: width^(1/2); Granite).
      residual: the factor on the output of every sublayer, before it is added to the stream (Granite).
      logits: the factor on logits, before the soft-cap (Granite and muP: below 1; Cohere, Grok).
    """

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                yield field.name, f"must be above 0, got {getattr(self, field.name)}"
