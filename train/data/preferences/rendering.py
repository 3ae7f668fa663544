"""A prompt and an answer as token ids, and which of them count: those of the answer, and of the mark that ends it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.errors import UserError
from train.data.conversations.encoding import covered, encode_with_ends, names_of_marks
from train.data.conversations.masks import Mask, render
from train.data.conversations.rows import Conversation
from train.data.conversations.template import ChatTemplate, mapped, protected, unmarked
from train.data.preferences.reading import Messages, Part, Preference, as_messages
from train.data.tokenizers.interface import Tokenizer


class Rendered(NamedTuple):
    """A prompt with an answer.

    Attributes:
      ids: the ids of both, int32 (tokens,).
      counted: whether each belongs to the answer.
      prompt: the number of ids before the first that does.
    """

    ids: np.ndarray
    counted: np.ndarray
    prompt: int


class Renderer:
    """Renders the answers of rows with a tokenizer and a chat template (train/data/conversations).

    Without a template prompt and answer are texts, encoded apart, after the mark that begins documents and before the
    mark that ends them, where the tokenizer has such marks.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        """Args: the tokenizer of the model; its template, or None."""
        self._tokenizer, self._template, self._marks = tokenizer, template, names_of_marks(tokenizer)

    def answers(self, row: Preference) -> list[Rendered]:
        """The answers of a row. Raises UserError, with file and line, for those that cannot be rendered."""
        return [self._answer(row, answer) for answer in row.answers]

    def _answer(self, row: Preference, answer: Part) -> Rendered:
        try:
            ids, counted = self._texts(row.prompt, answer) if self._template is None else self._messages(row, answer)
        except UserError as error:
            raise UserError(str(error) if str(error).startswith(row.where) else f"{row.where}: {error}") from None
        if not counted[1:].any():
            raise UserError(f"{row.where}: an answer has no token to learn")
        if counted[0]:
            raise UserError(f"{row.where}: there is no token before the answer; give the row a prompt")
        return Rendered(ids, counted, int(np.argmax(counted)))

    def _texts(self, prompt: Part, answer: Part) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise UserError("has messages, which need a chat template, such as data.template=PlainTemplate()")
        begin, end = self._tokenizer.begin_of_document, self._tokenizer.end_of_document
        before = ([] if begin is None else [begin]) + self._tokenizer.encode(prompt).tolist()
        after = self._tokenizer.encode(answer).tolist() + ([] if end is None else [end])
        return np.array(before + after, np.int32), np.arange(len(before) + len(after)) >= len(before)

    def _messages(self, row: Preference, answer: Part) -> tuple[np.ndarray, np.ndarray]:
        assert self._template is not None
        prompt, given = as_messages(row.prompt, "user"), as_messages(answer, "assistant")
        if not prompt:
            raise UserError(
                "has no prompt, and a chat template needs messages; give one, or take texts as they are with "
                "data.template=NoTemplate()"
            )
        if (role := given[-1]["role"]) != "assistant":
            raise UserError(f"an answer ends with a message of the {role}; expected one of the assistant")
        mask: Mask = "last" if len(given) == 1 else "assistant"
        conversation = Conversation([*prompt, *given], None, row.name, row.where)
        rendered = render(conversation, self._template, self._marks, mask)
        counts = rendered.counted
        if len(given) > 1:
            counts = counts & (np.arange(len(counts)) >= self._end_of_prompt(prompt, rendered.text))
        encoded = encode_with_ends(self._tokenizer, rendered.text)
        starts, stops = covered(encoded)
        before = np.append(0, np.cumsum(counts))
        return encoded.ids, before[stops] > before[starts]

    def _end_of_prompt(self, prompt: Messages, text: str) -> int:
        """The number of characters of the prompt; answers of several messages have one before them that counts too."""
        assert self._template is not None
        messages = mapped(prompt, lambda one: protected(one, self._marks))
        begin = unmarked(self._template.render_marked(messages, prompt=True))
        if not text.startswith(begin):
            raise UserError(
                f"{self._template.where} does not begin the conversation with its prompt, so that it is not known "
                "where an answer of several messages begins; give answers of one message"
            )
        return len(begin)
