"""Whether an objective, its model and its data fit together."""

from collections.abc import Iterator
from typing import Any

from model.config import ModelConfig
from train.data.interface import DataOption


def problems_of_objective(
    objective: Any, model: ModelConfig, data: DataOption, micro_batches: int
) -> Iterator[tuple[str, str]]:
    """Yields data and models that an objective cannot read, or of which it leaves parts without use.

    An objective may say that it `reads_scores` of the model's head, and that it needs `one_micro_batch`.
    """
    name = type(objective).__name__
    if missing := [field for field in objective.fields if field not in data.fields]:
        form = f"(form={data.form!r})" if hasattr(data, "form") else ""
        yield "objective", f"{name} reads {missing[0]!r}, and {type(data).__name__}{form} has {', '.join(data.fields)}"
    reads_scores = getattr(objective, "reads_scores", False)
    if reads_scores and model.score_head is None:
        yield "model.score_head", f"{name} reads the scores of a head; set it to ScoreHead()"
    if not reads_scores and model.score_head is not None:
        yield "model.score_head", f"{name} reads no scores, so that the head would not learn; set it to None"
    if getattr(objective, "one_micro_batch", False) and micro_batches > 1:
        yield (
            "training.gradient_accumulation",
            f"{name} takes a mean over a batch; set it to 1, not {micro_batches}",
        )
