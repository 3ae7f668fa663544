"""Text drawn from the model while it trains, and at its end."""

from typing import Any

from model.generate import generate
from model.sampling import Sampling
from model.taps import Shard, unsharded
from train.data.tokenizers import Tokenizer
from train.evaluation.parsing import Sample
from train.experiment import Experiment


def draw_samples(
    experiment: Experiment,
    params: Any,
    prompts: tuple[str, ...],
    *,
    tokenizer: Tokenizer,
    seed: int,
    shard: Shard = unsharded,
    row_multiple: int = 1,
) -> list[Sample]:
    """One text for each prompt, as `experiment.samples` says; the prompt is part of the text.

    An empty prompt begins a document: it needs a tokenizer whose documents have an end.

    Args:
      experiment: the run's options.
      params: the parameters to draw from.
      prompts: the texts to continue.
      tokenizer: of the run's dataset.
      seed: of the draws; the same seed gives the same texts.
      shard, row_multiple: how activations lie on the mesh, and the ways that it splits a batch.
    """
    option, end = experiment.samples, tokenizer.end_of_document
    begin = [] if end is None else [end]
    room = experiment.model.context_length - option.length
    starts = [(begin + [int(i) for i in tokenizer.encode(prompt)])[-max(room, 1) :] for prompt in prompts]
    starts = [start or [0] for start in starts]
    sampling = Sampling(
        max_tokens=option.length,
        temperature=option.temperature,
        top_p=option.top_p if option.temperature else None,
        seed=seed,
    )
    continued = generate(experiment.model, params, starts, sampling, end=end, shard=shard, row_multiple=row_multiple)
    samples = []
    for prompt, ids in zip(prompts, continued, strict=True):
        ended = bool(ids) and ids[-1] == end
        samples.append(Sample(prompt + tokenizer.decode(ids[:-1] if ended else ids), ended))
    return samples
