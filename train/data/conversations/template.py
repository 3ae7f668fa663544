"""Chat templates: a text from messages, by the Jinja programs that publishers keep beside their tokenizers.

A template is a stranger's program. It runs in Jinja's immutable sandbox, with the helpers that the published ones
expect: raise_exception, strftime_now, tojson, loop controls, and `generation` blocks, which mark the assistant's words.
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

Message = Mapping[str, Any]
# Characters that Unicode keeps for the inside of a program: no text has them, and those of messages are replaced.
SPLIT = "\ufdd0"  # in the name of a mark in a message, which is text there
_CUT = "\ufdd1"  # where a message is to be continued
BEGIN, END = "\ufdd2", "\ufdd3"  # the tokens that begin and end documents, whether they have a name or not
ANSWER, ANSWER_END = "\ufdd4", "\ufdd5"  # around a `generation` block
CONTENT_END = "\ufdd6"  # the end of a message's content; its beginning is one of CONTENT
ROLES = ("template", "system", "user", "assistant", "tool")  # of a character or a token, by number
CONTENT = {role: chr(0xFDE0 + number) for number, role in enumerate(ROLES)}
PRIVATE = "".join(map(chr, range(0xFDD0, 0xFDF0)))
_REPLACED = dict.fromkeys(map(ord, PRIVATE), "\ufffd")

# For models without a template of their own. An answer ends with the token that ends documents, as in pre-training.
PLAIN = (
    "{{ begin }}{% if tools %}tools:\n{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}:\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}{{ end }}{% endgeneration %}"
    "{% else %}{{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


class ChatTemplate:
    """A compiled template, and the names of marks that it reads, such as `bos_token`.

    Attributes:
      source: the program.
      names: the marks by their names in the program.
      where: its origin, for errors.
      marks_answers: whether it has a `generation` block.
      shows_tools: whether it reads the variable `tools`.
    """

    def __init__(self, source: str, names: Mapping[str, Any] | None = None, where: str = "the chat template") -> None:
        """Raises UserError for a template that is not Jinja."""
        self.source, self.names, self.where = source, dict(names or {}), where
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            names_read = environment.parse(source).find_all(jinja2.nodes.Name)
            self.shows_tools = any(name.name == "tools" and name.ctx == "load" for name in names_read)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{where} is not a Jinja template: line {error.lineno}: {error.message}") from None
        self.marks_answers = bool(getattr(environment, "marks_answers", False))

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
        given = [dict(message) for message in messages]
        if continue_last:
            if not given or not isinstance(given[-1].get("content"), str):
                raise UserError("there is no last message with a text to continue")
            given[-1]["content"] += _CUT
        text = unmarked(self.render_marked(given, prompt=not continue_last, variables=variables))
        if not continue_last:
            return text
        before, end, _ = text.rpartition(_CUT)
        if not end:
            raise UserError(f"{self.where} leaves out the last message, so that it cannot be continued")
        return before

    def render_marked(
        self, messages: Sequence[Message], *, prompt: bool = False, variables: Mapping[str, Any] | None = None
    ) -> str:
        """The text of a whole conversation, with ANSWER and ANSWER_END around every `generation` block.

        `prompt` adds the words that ask for the next message. Raises UserError as `render` does.
        """
        given = [{name: value for name, value in message.items() if value is not None} for message in messages]
        try:
            return self._template.render(
                **{**self.names, "begin": BEGIN, "end": END, "tools": None, "documents": None, **(variables or {})},
                messages=given,
                add_generation_prompt=prompt,
            )
        except _RefusedError as error:
            raise UserError(f"{self.where} refuses these messages: {error}") from None
        except Exception as error:  # whatever a stranger's program raises
            raise UserError(f"{self.where} fails on these messages: {type(error).__name__}: {error}") from None


def unmarked(text: str) -> str:
    """A rendered text without the borders of answers and of contents."""
    return text.translate(_BORDERS)


_BORDERS = dict.fromkeys(map(ord, (ANSWER, ANSWER_END, CONTENT_END, *CONTENT.values())))


def protected(text: str, marks: Sequence[str]) -> str:
    """A text of a message in which the names of marks are split by a character that no text has.

    `marks` are the names, longest first.
    """
    text = text.translate(_REPLACED)
    for name in marks:
        while name in text:  # again: "__x__x__" holds "__x__" twice
            text = text.replace(name, name[:1] + SPLIT + name[1:])
    return text


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A tree of JSON with every text changed, except the names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: mapped(inside, change) for name, inside in value.items()}
    if isinstance(value, Sequence):
        return [mapped(inside, change) for inside in value]
    return value


class _RefusedError(Exception):
    """Raised by a template through `raise_exception`."""


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: the content, between two characters that mark it."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The nodes inside the block, whose assignments end with it."""
        line = next(parser.stream).lineno
        parser.environment.marks_answers = True  # type: ignore[attr-defined]
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        first, last = (jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)]) for mark in (ANSWER, ANSWER_END))
        return jinja2.nodes.Scope([first, *body, last], lineno=line)


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
