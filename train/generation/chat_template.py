"""Prompts of a model from messages: its chat template (train/data/conversations/template.py) and its tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from train.data.conversations.encoding import encode, names_of_marks
from train.data.conversations.found_template import (
    find_chat_template,
    mark_names,
    optional_json,
    template_in_file,
    trained_template,
)
from train.data.conversations.template import ChatTemplate, Message, mapped, protected
from train.data.tokenizers.interface import Tokenizer
from train.files.paths import AnyPath
from train.run.folder import ORIGIN

NO_TEMPLATE = (
    "this run has no chat template (a tokenizer_config.json or chat_template.jinja in RUN/origin); give one as "
    "--chat_template=FILE, or ask for a completion of a text"
)


class ChatPrompts:
    """Prompts of a model from messages: a template, and the tokenizer's marks that only the template may write."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template, self._tokenizer = template, tokenizer
        self._marks = names_of_marks(tokenizer)

    @property
    def template_source(self) -> str:
        """The program of the template."""
        return self._template.source

    @property
    def shows_tools(self) -> bool:
        """Whether the template reads tools."""
        return self._template.shows_tools

    def ids(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[int]:
        """The ids of a prompt; `tools` are shown by the template, the other options are of `ChatTemplate.render`.

        The name of a mark in a message is text, as in any other text: nobody writes the end of his own turn. (Most
        other programs take it for the mark.)
        """
        plain = lambda value: mapped(value, lambda one: protected(one, self._marks))  # noqa: E731
        shown = {**(variables or {}), **({"tools": plain(tools)} if tools else {})}
        text = self._template.render(plain(messages), variables=shown, **options)
        return encode(self._tokenizer, text)


def chat_prompts(run: AnyPath, tokenizer: Tokenizer, chat_template: str | None = None) -> ChatPrompts | None:
    """The maker of prompts from messages: by a template in a file, or by that of the run; None if there is neither.

    Raises UserError for a file that cannot be read or is not a template.
    """
    if chat_template is None:
        template = find_chat_template(run, tokenizer)
    else:
        template = template_in_file(chat_template, run, tokenizer)
    return None if template is None else ChatPrompts(template, tokenizer)


def stop_tokens(run: AnyPath, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids, beside the end of a document, that end a text: such as the end of a turn.

    Those that ended answers in the run's conversations, and by the published files `eos_token_id` of
    generation_config.json and config.json, and `eos_token` of tokenizer_config.json.
    """
    origin = run / ORIGIN
    trained = trained_template(run)
    found: list[int] = [] if trained is None else list(trained.stop_tokens)
    for file in ("generation_config.json", "config.json"):
        value = optional_json(origin / file).get("eos_token_id")
        found += [i for i in (value if isinstance(value, list) else [value]) if type(i) is int]
    if (name := mark_names(run, tokenizer).get("eos_token")) in (marks := tokenizer.marks()):
        found.append(marks[name])
    known = {i for i in found if 0 <= i < tokenizer.vocab_size and i != tokenizer.end_of_document}
    return tuple(sorted(known))
