"""Rollouts of several turns: a function answers the model's answer, and the model answers again.

    Rollouts(tool=Tool(function="my_tools.py:calculator", turns=3))

    def calculator(prompt: str, answer: str, fields: dict) -> str | None:
        return str(eval(answer[5:])) if answer.startswith("calc ") else None

Where the prompt is a text, the tool's text follows the answer as it is; where the prompt is messages, it is a message
of the role "tool", written by the chat template. Its tokens are read and not learned from. The function runs in a
process of its own (train/alignment/function_process.py); one that fails ends the run, with the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.errors import UserError
from train.alignment.function_process import CallError, FunctionProcess
from train.data.conversations.encoding import encode, names_of_marks
from train.data.conversations.template import ChatTemplate, protected
from train.data.prompts import Prompt
from train.data.tokenizers.interface import Tokenizer
from train.objectives.rollout_options import Tool

_ANSWER = "x"  # stands for the answer where the template writes what follows it


class ToolTurns:
    """The tokens that follow answers."""

    def __init__(self, option: Tool, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        """Starts the function.

        Args:
          option: the option.
          tokenizer: the tokenizer of the prompts.
          template: their chat template; None where they are texts.

        Raises:
          UserError: where there is no such function.
        """
        self._option, self._tokenizer, self._template = option, tokenizer, template
        self._call = FunctionProcess(option.function, "tool", "objective.rollouts.tool", option.seconds)

    def __call__(self, prompt: Prompt, answer: str, last: int) -> list[int] | None:
        """The ids between an answer and the next one; None where the answer is the last.

        Args:
          prompt: the prompt.
          answer: the text of the answer.
          last: the id of its last token, which the template writes again if it is a mark.

        Raises:
          UserError: when the function fails, with the row; when the template does not go on after an answer.
        """
        try:
            text = self._call(prompt.text, answer, dict(prompt.fields))
        except CallError as error:
            raise UserError(
                f"the tool {self._option.function} {error}, for {prompt.where}, answer {answer[:80]!r}; mend the "
                "function. The same command continues from the last checkpoint, if there is one"
            ) from None
        if text is None:
            return None
        if prompt.messages is None:
            return self._tokenizer.encode(text).tolist()
        ids = encode(self._tokenizer, self._after(prompt.messages, text))
        return ids[1:] if ids[:1] == [last] else ids

    def _after(self, messages: Sequence[dict[str, Any]], text: str) -> str:
        """The rendered text after an answer: the mark that ends it, the tool's message, the words that ask again."""
        template = self._template
        assert template is not None
        begin = template.render(messages) + _ANSWER
        said = {"role": "tool", "content": protected(text, names_of_marks(self._tokenizer))}
        whole = template.render([*messages, {"role": "assistant", "content": _ANSWER}, said])
        if not whole.startswith(begin):
            raise UserError(
                f"{template.where} does not go on after an answer as it asked for it, so that the turns of a rollout "
                "do not fit together; give prompts that are texts, or another data.template"
            )
        return whole[len(begin) :]

    def close(self) -> None:
        """Ends the process."""
        self._call.close()
