"""Whether an objective, its model and its data fit together."""

from collections.abc import Iterator
from typing import Any

from model.config import ModelConfig
from train.data.interface import DataOption
from train.objectives.distillation import Distillation
from train.objectives.masked import MaskedTokens
from train.objectives.next_token import NextToken
from train.objectives.policy import GRPO
from train.objectives.ppo import PPO
from train.objectives.preference import DPO, IPO, KTO, ORPO, SimPO
from train.objectives.prefix import PrefixTokens
from train.objectives.reward import RewardModel

AnyObjective = (
    NextToken | MaskedTokens | PrefixTokens | Distillation | DPO | IPO | SimPO | ORPO | KTO | RewardModel | GRPO | PPO
)


def tokenizer_size(objective: Any, model: ModelConfig, data: DataOption) -> int:
    """The number of tokens that the tokenizer of a model must have; the objective and the data own the other ids."""
    return model.vocab_size - int(getattr(objective, "own_ids", 0)) - data.own_ids


def problems_of_direction(
    objective: Any, model: ModelConfig, prompts: tuple[str, ...], evaluations: tuple[Any, ...]
) -> Iterator[tuple[str, str]]:
    """Yields objectives that need another `visibility` than the model has, and what a model without decoding cannot do.

    An objective names the `direction` that it needs; the others predict next tokens, in any model that decodes.
    """
    name, found = type(objective).__name__, type(model.visibility).__name__
    needed = getattr(objective, "direction", None)
    if needed not in (None, found):
        yield "model.visibility", f"{name} trains a model with {needed}(), not with {found}(); set it to {needed}()"
    elif needed is None and not model.visibility.decodes:
        yield "objective", f"{name} predicts next tokens, which {found}() shows; set it to MaskedTokens()"
    mask = getattr(objective, "mask_id", None)
    if mask is not None and mask >= model.vocab_size:
        yield "objective.mask_id", f"must be an id of model.vocab_size={model.vocab_size}, got {mask}"
    if not model.visibility.decodes and prompts:
        yield "samples.prompts", f"a model with {found}() writes no text; set it to ()"
    if not model.visibility.decodes and evaluations:
        yield "evaluations", f"they measure next tokens or answers, which a model with {found}() lacks; set it to ()"


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
    if model.encoder is None and data.source_fields:
        yield "model.encoder", f"None, and {type(data).__name__} has sources that nothing would read; give an Encoder"
    if model.encoder is not None and not data.source_fields:
        use = "use Pairs or SpanCorruption, or model.encoder=None"
        yield "data", f"{type(data).__name__} has no sources for the model's encoder; {use}"
    longest = getattr(data, "source_length", 0)
    if model.encoder is not None and longest > model.encoder.context_length:
        yield (
            "data.source_length",
            f"{longest} is longer than model.encoder.context_length={model.encoder.context_length}; lower it",
        )
    if isinstance(objective, NextToken) and objective.label_smoothing and model.final_logit_softcap is not None:
        yield "objective.label_smoothing", "has no rule for logits with a soft-cap; set model.final_logit_softcap=None"
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
