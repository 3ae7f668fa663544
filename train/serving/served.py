"""A loaded run as a server serves it: its name, its chat template, the ids that end its texts."""

from train.generation.chat_template import chat_prompts, stop_tokens
from train.run.loading import LoadedRun
from train.serving.parameters.options import Served


def served_of(
    run: LoadedRun, *, name: str | None, chat_template: str | None, created: int, source_tokens: int | None = None
) -> Served:
    """A run as it is served.

    Args:
      run: the run.
      name: its name for clients; None for that of its folder.
      chat_template: a file with a template in place of the run's own.
      created: the time now, in seconds since 1970.
      source_tokens: of the engine, see `EngineOptions`.

    Raises:
      UserError: see `train.generation.chat_template.chat_prompts`.
    """
    encoder = run.experiment.model.encoder
    most = 0 if encoder is None else encoder.context_length
    return Served(
        name=name or run.folder.resolve().name or "model",
        tokenizer=run.tokenizer,
        context_length=run.experiment.model.context_length,
        stop_tokens=stop_tokens(run.folder, run.tokenizer),
        chat=chat_prompts(run.folder, run.tokenizer, chat_template),
        created=created,
        encoder=encoder,
        longest_source=most if source_tokens is None else min(most, source_tokens),
    )
