"""Chat templates: the Jinja program of a published tokenizer that turns messages into the text of a prompt.

A template comes with a model, from a stranger, so it runs in jinja2's sandbox, with the helpers that the published ones
expect: raise_exception, strftime_now, tojson, loop controls, and `generation` blocks, which change nothing here.
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from model.errors import UserError
from train.data.tokenizers.interface import Tokenizer
from train.files.files import read_json
from train.files.paths import AnyPath, user_path
from train.files.remote import convert_read_errors
from train.run.folder import ORIGIN

Message = Mapping[str, Any]
# Characters that Unicode keeps for the inside of a program: no text has them.
_SPLIT, _END = "\ufdd0", "\ufdd1"
NO_TEMPLATE = (
    "this run has no chat template (a tokenizer_config.json or chat_template.jinja in RUN/origin); give one as "
    "--chat_template=FILE, or ask for a completion of a text"
)


class ChatTemplate:
    """A compiled template, and the names of marks that it reads, such as `bos_token`."""

    def __init__(self, source: str, names: Mapping[str, Any] | None = None, where: str = "the chat template") -> None:
        """Raises UserError for a template that is not Jinja."""
        self._where, self._names = where, dict(names or {})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{where} is not a Jinja template: line {error.lineno}: {error.message}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        continue_last: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a prompt that asks for the next message of the assistant.

        Args:
          messages: objects with a role and a content. Fields that are None count as missing.
          continue_last: the prompt ends with the last message's content, for the model to go on with it.
          variables: further variables of the template, such as `enable_thinking`.

        Raises:
          UserError: when the template refuses the messages, or fails; with its own words.
        """
        given = [{name: value for name, value in message.items() if value is not None} for message in messages]
        if continue_last:
            if not given or not isinstance(given[-1].get("content"), str):
                raise UserError("there is no last message with a text to continue")
            given[-1]["content"] += _END
        try:
            text = self._template.render(
                **{**self._names, "tools": None, "documents": None, **(variables or {})},
                messages=given,
                add_generation_prompt=not continue_last,
            )
        except _RefusedError as error:
            raise UserError(f"{self._where} refuses these messages: {error}") from None
        except Exception as error:  # whatever a stranger's program raises
            raise UserError(f"{self._where} fails on these messages: {type(error).__name__}: {error}") from None
        if not continue_last:
            return text
        before, end, _ = text.rpartition(_END)
        if not end:
            raise UserError(f"{self._where} leaves out the last message, so that it cannot be continued")
        return before


class ChatPrompts:
    """Prompts of a model from messages: a template, and the tokenizer's marks that only the template may write."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template, self._tokenizer = template, tokenizer
        self._marks = sorted((name for name in tokenizer.marks() if len(name) > 1), key=len, reverse=True)

    def ids(self, messages: Sequence[Message], **options: Any) -> list[int]:
        """The ids of a prompt; `options` as for `ChatTemplate.render`.

        The name of a mark in a message is text, as in any other text: nobody writes the end of his own turn. (Most
        other programs take it for the mark.)
        """
        text = self._template.render(_mapped(messages, self._protect), **options)
        if _SPLIT not in text:
            return self._encode(text)
        # The text between two marks of the template is encoded by itself where a message wrote a mark's name in it.
        ids: list[int] = []
        for part in self._tokenizer.split_at_marks(text):
            ids += self._tokenizer.encode(part.replace(_SPLIT, "")).tolist() if _SPLIT in part else self._encode(part)
        return ids

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_marked(text).tolist() if text else []

    def _protect(self, text: str) -> str:
        """A text in which the names of marks are split by a character that no text has."""
        text = text.replace(_SPLIT, "\ufffd").replace(_END, "\ufffd")
        for name in self._marks:
            while name in text:  # again: "__x__x__" holds "__x__" twice
                text = text.replace(name, name[:1] + _SPLIT + name[1:])
        return text


def chat_prompts(run: AnyPath, tokenizer: Tokenizer, chat_template: str | None = None) -> ChatPrompts | None:
    """What makes prompts of messages: a template in a file, or that of the run; None if there is neither.

    Raises UserError for a file that cannot be read or is not a template.
    """
    if chat_template is None:
        template = find_chat_template(run, tokenizer)
    else:
        path = user_path(chat_template)
        if not path.is_file():
            raise UserError(f"no chat template at {chat_template}; expected a file with a Jinja template")
        template = ChatTemplate(_source(path), mark_names(run, tokenizer), f"the chat template {chat_template}")
    return None if template is None else ChatPrompts(template, tokenizer)


def _source(path: AnyPath) -> str:
    """The text of a file with a template. Raises UserError for a file that cannot be read."""
    with convert_read_errors(path):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text; expected a file with a Jinja template") from None


def find_chat_template(run: AnyPath, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of the published files from which a run was read, in RUN/origin; None if they have none.

    Raises UserError for a damaged file.
    """
    origin = run / ORIGIN
    config = _optional_json(origin / "tokenizer_config.json")
    source, where = config.get("chat_template"), origin / "tokenizer_config.json"
    if (origin / "chat_template.json").is_file():
        where = origin / "chat_template.json"
        source = _optional_json(where).get("chat_template")
    if (origin / "chat_template.jinja").is_file():
        where = origin / "chat_template.jinja"
        source = _source(where)
    if isinstance(source, list):  # several by name, one of them for ordinary chats
        by_name = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = by_name.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f"{where}: chat_template: expected a text, got {type(source).__name__}; get the file again")
    return ChatTemplate(source, mark_names(run, tokenizer), f"the chat template of {where}")


def mark_names(run: AnyPath, tokenizer: Tokenizer) -> dict[str, Any]:
    """The names of marks as templates know them: `bos_token` and others, from the files in RUN/origin."""
    origin = run / ORIGIN
    found: dict[str, Any] = {}
    option: Any = tokenizer.option
    for name, field in (("bos_token", "begin_of_document"), ("eos_token", "end_of_document")):
        if isinstance(mark := getattr(option, field, None), str):
            found[name] = mark
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name, value in _optional_json(origin / file).items():
            value = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(value, str):
                found[name] = value
    return found


def stop_tokens(run: AnyPath, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids, beside the end of a document, that end a text by the published files: such as the end of a turn.

    From `eos_token_id` of generation_config.json and config.json, and `eos_token` of tokenizer_config.json.
    """
    origin = run / ORIGIN
    found: list[int] = []
    for file in ("generation_config.json", "config.json"):
        value = _optional_json(origin / file).get("eos_token_id")
        found += [i for i in (value if isinstance(value, list) else [value]) if type(i) is int]
    if (name := mark_names(run, tokenizer).get("eos_token")) in (marks := tokenizer.marks()):
        found.append(marks[name])
    known = {i for i in found if 0 <= i < tokenizer.vocab_size and i != tokenizer.end_of_document}
    return tuple(sorted(known))


def _optional_json(path: AnyPath) -> dict[str, Any]:
    return read_json(path, remedy="get it again") if path.is_file() else {}


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A tree of JSON with every text changed, except the names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(inside, change) for name, inside in value.items()}
    if isinstance(value, Sequence):
        return [_mapped(inside, change) for inside in value]
    return value


class _RefusedError(Exception):
    """Raised by a template through `raise_exception`."""


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's words for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The nodes inside the block, whose assignments end with it."""
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _time_now}
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(message: object) -> None:
    raise _RefusedError(str(message))


def _time_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it stands in a prompt: jinja2's own filter would escape it for HTML, and sort it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
