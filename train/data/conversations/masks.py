"""The characters of a rendered conversation that count: the assistant's words, by the template's marks or by prefixes.

A template may mark the words with `{% generation %}`. Without marks, message i has the characters by which the
conversation up to it is longer than the prompt that asks for it:

    answer(i) = render(messages[: i + 1]) - render(messages[:i], add_generation_prompt=True)

which is exact where each is the beginning of the next one, and of the whole conversation. A template for which this
does not hold (it changes earlier answers, or a prompt begins the answer otherwise) is refused.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from model.errors import UserError
from train.data.conversations.rows import Conversation
from train.data.conversations.template import (
    ANSWER,
    ANSWER_END,
    CONTENT,
    CONTENT_END,
    ROLES,
    ChatTemplate,
    mapped,
    protected,
    unmarked,
)

Mask = Literal["assistant", "last", "all"]
ASSISTANT = ROLES.index("assistant")
_BORDERS = [ord(mark) for mark in (ANSWER, ANSWER_END, CONTENT_END, *CONTENT.values())]
_MARK_ANSWERS = "mark the assistant's words with {% generation %} ... {% endgeneration %} in a template of your own"


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
      text: the characters, for `encoding.encode_with_ends`.
      counted: whether each counts, bool [characters].
      roles: the number of the role (template.ROLES) of the message that wrote it; 0 for what the template adds.
    """

    text: str
    counted: np.ndarray
    roles: np.ndarray


def render(conversation: Conversation, template: ChatTemplate, marks: list[str], mask: Mask) -> Rendered:
    """Renders a conversation and finds the characters that count.

    Args:
      conversation: the messages.
      template: their template.
      marks: the names of the tokenizer's marks, which are text in a message.
      mask: whose characters count: the assistant's, those of its last message, or all.

    Raises:
      UserError: with the place of the row, when the template fails, when there is no answer, and when the template
        does not say which characters are the answer's.
    """
    try:
        return _render(conversation, template, marks, mask)
    except UserError as error:
        raise UserError(f"{conversation.where}: {error}") from None


def _render(conversation: Conversation, template: ChatTemplate, marks: list[str], mask: Mask) -> Rendered:
    messages = mapped(conversation.messages, lambda one: protected(one, marks))
    variables = {} if conversation.tools is None else {"tools": conversation.tools}
    marked = template.render_marked(messages, variables=variables)
    text = unmarked(marked)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers and mask != "all":
        raise UserError("has no message of the assistant, so that nothing would be learned; leave the row out")
    roles = _roles(messages, template, variables, text)
    counted = np.zeros(len(text), bool)
    if mask == "all":
        counted[:] = True
    else:
        for begin, end in _answers(messages, answers, template, variables, marked, roles, mask):
            counted[begin:end] = True
    if mask != "all":
        _refuse_senseless(counted, roles, template)
    return Rendered(text, counted, np.where(counted & (roles == 0) & (mask != "all"), ASSISTANT, roles))


def _answers(
    messages: list[dict[str, Any]],
    answers: list[int],
    template: ChatTemplate,
    variables: dict[str, Any],
    marked: str,
    roles: np.ndarray,
    mask: Mask,
) -> list[tuple[int, int]]:
    """The ranges of characters of the answers that count."""
    if not template.marks_answers:
        wanted = answers[-1:] if mask == "last" else answers
        return [_by_prefixes(messages, i, template, variables, unmarked(marked)) for i in wanted]
    spans = _by_marks(marked, template)
    if mask == "assistant" or len(spans) <= 1:
        return spans
    if len(spans) == len(answers):
        return spans[-1:]
    # A message has several blocks, or none: those after the last message of somebody else are the last message's.
    others = np.flatnonzero((roles != 0) & (roles != ASSISTANT))
    if not len(others):
        found = f"{len(spans)} generation blocks for {len(answers)} answers"
        raise UserError(f"{template.where} has {found}; {_MARK_ANSWERS}")
    return [span for span in spans if span[0] > others[-1]]


def _by_marks(marked: str, template: ChatTemplate) -> list[tuple[int, int]]:
    """The ranges between the marks of a rendered text, in the text without marks.

    Raises UserError for a template that takes the text of its generation blocks apart.
    """
    codes = _codes(marked)
    places = _places(codes)
    begins, ends = (places[codes == ord(mark)].tolist() for mark in (ANSWER, ANSWER_END))
    if len(begins) != len(ends) or any(begin > end for begin, end in zip(begins, ends, strict=True)):
        raise UserError(f"{template.where} changes the text of its generation blocks; write them where it is printed")
    return list(zip(begins, ends, strict=True))


def _codes(text: str) -> np.ndarray:
    """The code points of a text, uint32 [characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _places(codes: np.ndarray) -> np.ndarray:
    """For each character of a text with marks, the number of characters before it that are none."""
    is_text = ~np.isin(codes, _BORDERS)
    return np.cumsum(is_text) - is_text


def _by_prefixes(
    messages: list[dict[str, Any]], i: int, template: ChatTemplate, variables: dict[str, Any], text: str
) -> tuple[int, int]:
    """The range of message i by the prefix method; see the module. Raises UserError where it does not apply."""
    last = i == len(messages) - 1
    prompt = template.render_marked(messages[:i], prompt=True, variables=variables)
    upto = text if last else template.render_marked(messages[: i + 1], variables=variables)
    if upto.startswith(prompt) and text.startswith(upto):
        return len(prompt), len(upto)
    what = (
        "the prompt that asks for it is not the beginning of the conversation"
        if not upto.startswith(prompt)
        else "later messages change the text before them"
    )
    mend = _MARK_ANSWERS if last else f'{_MARK_ANSWERS}, or learn the last answer alone (data.mask="last")'
    raise UserError(
        f"{template.where} has no generation marks, and does not show which characters are message {i + 1}: {what}; "
        f"{mend}"
    )


def _roles(messages: list[dict[str, Any]], template: ChatTemplate, variables: dict[str, Any], text: str) -> np.ndarray:
    """The role of each character of a text; 0 for all where the template does not keep contents as they are."""
    roles = np.zeros(len(text), np.uint8)
    fenced = [_fenced(one) if isinstance(one.get("content"), str) else one for one in messages]
    try:
        marked = template.render_marked(fenced, variables=variables)
    except UserError:
        return roles
    if unmarked(marked) != text:
        return roles
    codes = _codes(marked)
    places = _places(codes)
    ends = places[codes == ord(CONTENT_END)]
    if len(ends) != np.isin(codes, [ord(mark) for mark in CONTENT.values()]).sum():
        return roles  # the template takes contents apart
    for role, mark in CONTENT.items():
        for begin in places[codes == ord(mark)].tolist():
            end = int(ends[np.searchsorted(ends, begin)])  # contents do not nest
            roles[begin:end] = ROLES.index(role)
    return roles


def _fenced(message: dict[str, Any]) -> dict[str, Any]:
    """A message with marks around its content, inside the white space that templates may trim."""
    content = message["content"]
    core = content.strip()
    if not core:  # of an answer that calls tools, or that a model left empty
        return message
    before, _, after = content.partition(core)
    return {**message, "content": before + CONTENT[message["role"]] + core + CONTENT_END + after}


def _refuse_senseless(counted: np.ndarray, roles: np.ndarray, template: ChatTemplate) -> None:
    """Raises UserError for a mask without a character, and for one with the words of somebody else."""
    if not counted.any():
        raise UserError(
            f"{template.where} marks no character of the assistant's, so that nothing would be learned; {_MARK_ANSWERS}"
        )
    others = {ROLES[number] for number in np.unique(roles[counted]).tolist()} - {"template", "assistant"}
    if others or counted.all():
        whose = f"those of the {' and of the '.join(sorted(others))}" if others else "those of every message"
        raise UserError(
            f"{template.where} marks words as the assistant's that are not: {whose}; {_MARK_ANSWERS}, or ask for all "
            'tokens with data.mask="all"'
        )
