"""A loaded run as a server serves it: its name, its chat template, the ids that end its texts."""

from model.errors import UserError
from train.files.paths import user_path
from train.files.remote import convert_read_errors
from train.generation.chat_template import (
    ChatPrompts,
    ChatTemplate,
    find_chat_template,
    mark_names,
    stop_tokens,
)
from train.run.loading import LoadedRun
from train.serving.options import Served


def chat_prompts(run: LoadedRun, chat_template: str | None = None) -> ChatPrompts | None:
    """What makes prompts of messages: a template in a file, or that of the run; None if there is neither.

    Raises UserError for a file that cannot be read or is not a template.
    """
    if chat_template is None:
        template = find_chat_template(run.folder, run.tokenizer)
    else:
        path = user_path(chat_template)
        if not path.is_file():
            raise UserError(f"no chat template at {chat_template}; expected a file with a Jinja template")
        with convert_read_errors(path):
            try:
                source = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{chat_template} is not UTF-8 text; expected a file with a Jinja template") from None
        template = ChatTemplate(source, mark_names(run.folder, run.tokenizer), f"the chat template {chat_template}")
    return None if template is None else ChatPrompts(template, run.tokenizer)


def served_of(run: LoadedRun, *, name: str | None, chat_template: str | None, created: int) -> Served:
    """A run as it is served.

    Args:
      run: the run.
      name: its name for clients; None for that of its folder.
      chat_template: a file with a template in place of the run's own.
      created: the time now, in seconds since 1970.

    Raises:
      UserError: see `chat_prompts`.
    """
    return Served(
        name=name or run.folder.resolve().name or "model",
        tokenizer=run.tokenizer,
        context_length=run.experiment.model.context_length,
        stop_tokens=stop_tokens(run.folder, run.tokenizer),
        chat=chat_prompts(run, chat_template),
        created=created,
    )
