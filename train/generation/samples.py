"""Text sampled from the model during training, and at its end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from model.inference.sampling import Sampling
from model.layout import ONE_DEVICE, Layout
from train.data.tokenizers.interface import Tokenizer
from train.experiment import Experiment
from train.generation.texts import generate_texts


@dataclasses.dataclass(frozen=True)
class Sample:
    """A file that a model generated, and whether the model ended it (otherwise a limit did)."""

    text: str
    ended: bool


def draw_samples(
    experiment: Experiment,
    params: Any,
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    seed: int,
    layout: Layout = ONE_DEVICE,
) -> list[Sample]:
    """One text for each prompt, as `experiment.samples` says; the prompt is part of the text.

    Args:
      experiment: the run's options.
      params: the parameters to sample with.
      prompts: the beginnings of the texts; after an empty prompt the model starts a new document.
      tokenizer: the tokenizer of the run's dataset.
      seed: the seed of the draws; the same seed gives the same texts.
      layout: the sharding of activations.

    Raises:
      UserError: for a prompt that `train.generation.texts.check_prompts` refuses.
    """
    option = experiment.samples
    sampling = Sampling(
        max_tokens=option.length,
        temperature=option.temperature,
        top_p=option.top_p if option.temperature else None,
        seed=seed,
    )
    generated = generate_texts(
        experiment.model,
        params,
        tokenizer,
        prompts,
        sampling,
        batch_size=max(1, len(prompts)),
        layout=layout,
    )
    return [
        Sample(prompt + new.text, ended=new.ended_by == "end_of_document")
        for prompt, new in zip(prompts, generated, strict=True)
    ]
