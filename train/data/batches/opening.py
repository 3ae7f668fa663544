"""The batches of a run's data, whether they are read from a dataset or made by a task."""

from __future__ import annotations

from collections.abc import Sequence

from train.data.batches.generated import GeneratedBatches, GeneratedEvaluation
from train.data.batches.pipeline import Batches, EvaluationBatches
from train.data.batches.rows import FIELDS
from train.data.config import Data
from train.data.generated import Generated
from train.data.shards.dataset import Dataset

AnyBatches = Batches | GeneratedBatches


def training_batches(
    dataset: Dataset, data: Data | Generated, fields: Sequence[str] = tuple(FIELDS)
) -> Batches | GeneratedBatches:
    """The endless batches to train on."""
    if isinstance(data, Generated):
        return GeneratedBatches(data, "train", fields)
    return Batches(dataset, data, "train", fields)


def evaluation_batches(
    dataset: Dataset, data: Data | Generated, split: str, limit: int | None, rows: Sequence[int]
) -> EvaluationBatches | GeneratedEvaluation:
    """One pass over a split, at most `limit` batches; a task makes the validation split of its own run alone."""
    if isinstance(data, Generated):
        return GeneratedEvaluation(data, split, limit, rows)
    return EvaluationBatches(dataset, data, split, limit=limit, rows=rows)
