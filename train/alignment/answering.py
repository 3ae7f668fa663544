"""Answers of a model to prompts whose right answers are known: exact-match accuracy, strict and lenient.

The prompts are rows of JSON, `{"prompt": "..." or messages, "answer": "..."}`. The model answers each greedily, through
the engine and its chat template, until the end of its turn.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.layout import ONE_DEVICE, Layout
from train.alignment.answers import Verdict, judge
from train.alignment.instructions import write_rows
from train.data.conversations.found_template import FoundTemplate, find_chat_template, plain_template
from train.data.conversations.rows import messages_of, read_rows, tools_of
from train.data.tokenizers.interface import Tokenizer
from train.files.paths import AnyPath
from train.generation.chat_template import ChatPrompts, stop_tokens
from train.generation.continuations import continue_in_order
from train.generation.text_engine import TextEngine, TextRequest
from train.run.loading import LoadedRun


class Question(NamedTuple):
    """A prompt and its right answer; `where` is the row."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    answer: str
    where: str


def read_questions(path: str, limit: int | None = None) -> list[Question]:
    """The first `limit` questions of a path's files. Raises UserError for rows of another form, and for none at all."""
    found: list[Question] = []
    for row in read_rows(path):
        if limit is not None and len(found) == limit:
            break
        for name in ("prompt", "answer"):
            if name not in row.fields:
                listed = ", ".join(map(repr, list(row.fields)[:8])) or "none"
                raise UserError(f'{row.where}: expected "prompt" and "answer"; its fields are {listed}')
        messages = messages_of(row.fields["prompt"], f"{row.where}: prompt", text_role="user")
        answer = row.fields["answer"]
        if isinstance(answer, int | float) and not isinstance(answer, bool):
            answer = str(answer)
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(f"{row.where}: answer: expected a text that is not empty, got {answer!r}")
        found.append(Question(messages, tools_of(row), answer, row.where))
    if not found:
        raise UserError(f"{path} has no row with a prompt and an answer")
    return found


def chat_of_run(run: AnyPath, tokenizer: Tokenizer) -> FoundTemplate:
    """The template of a run and the tokens that end its answers; Cairn's plain one for a run without a template."""
    template = find_chat_template(run, tokenizer) or plain_template(tokenizer)
    return FoundTemplate(template, stop_tokens(run, tokenizer))


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to some questions.

    Attributes:
      texts: the answers, in the order of the questions.
      verdicts: their judgements.
      unfinished: how many were longer than allowed.
    """

    texts: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    unfinished: int

    def numbers(self) -> dict[str, float]:
        """Accuracies and shares, for a line of metrics.jsonl."""
        count = len(self.texts)
        return {
            "accuracy": sum(verdict.strict for verdict in self.verdicts) / count,
            "accuracy_lenient": sum(verdict.lenient for verdict in self.verdicts) / count,
            "unfinished": self.unfinished / count,
            "questions": count,
        }


class Examiner:
    """Puts the same questions to a model at any time; its programs are compiled once."""

    def __init__(
        self,
        model: ModelConfig,
        params: Any,
        tokenizer: Tokenizer,
        chat: FoundTemplate,
        questions: Sequence[Question],
        *,
        max_tokens: int = 64,
        rows: int = 16,
        layout: Layout = ONE_DEVICE,
    ) -> None:
        """Prepares the prompts.

        Args:
          model: the model's options.
          params: its parameters, on the mesh.
          tokenizer: its tokenizer.
          chat: the template, and the tokens that end an answer.
          questions: the questions.
          max_tokens: the longest answer.
          rows: the questions that are answered at once.
          layout: the sharding of activations.

        Raises:
          UserError: for a prompt that leaves an answer no room in the context, with its row.
        """
        self._questions, self._rows = questions, min(rows, len(questions))
        prompts = ChatPrompts(chat.template, tokenizer)
        self._requests = []
        for question in questions:
            try:
                ids = prompts.ids(question.messages, variables={"tools": question.tools})
            except UserError as error:
                raise UserError(f"{question.where}: {error}") from None
            if not 0 < len(ids) < model.context_length:
                raise UserError(
                    f"{question.where}: the prompt has {len(ids):,} tokens with its chat template, and the model's "
                    f"context is {model.context_length:,}; shorten it, or leave the row out"
                )
            request = Request(
                prompt=tuple(ids),
                sampling=Sampling(max_tokens=max_tokens, temperature=0.0),
                begin=tokenizer.begin_of_document,
                end=tokenizer.end_of_document,
                stop_tokens=chat.stop_tokens,
            )
            self._requests.append(TextRequest(request=request))
        longest = min(max(len(one.request.prompt) for one in self._requests) + max_tokens, model.context_length)
        options = EngineOptions(
            rows=self._rows,
            tokens_per_step=max(128, 2 * self._rows),
            cache_tokens=self._rows * -(-longest // EngineOptions.page_size) * EngineOptions.page_size,
        )
        self._engine = Engine(model, params, options, layout=layout)
        self._texts = TextEngine(self._engine, tokenizer)

    def __call__(self, params: Any = None, alive: Callable[[], None] = lambda: None) -> Answers:
        """The answers under other parameters of the same model, or those of before; `alive` is called for each."""
        if params is not None:
            self._engine.replace_params(params)
        texts, unfinished = [], 0
        for found in continue_in_order(self._texts, self._requests, ahead=2 * self._rows):
            texts.append(found.text)
            unfinished += found.ended_by in ("max_tokens", "context")
            alive()
        verdicts = [judge(text, one.answer) for text, one in zip(texts, self._questions, strict=True)]
        return Answers(tuple(texts), tuple(verdicts), unfinished)


def answers_of_run(loaded: LoadedRun, path: str, *, max_tokens: int = 64) -> tuple[list[Question], Answers]:
    """The questions of a path's files, and the answers of a loaded run. Raises UserError as `Examiner` does."""
    questions = read_questions(path)
    chat = chat_of_run(loaded.folder, loaded.tokenizer)
    examiner = Examiner(
        loaded.experiment.model,
        loaded.params,
        loaded.tokenizer,
        chat,
        questions,
        max_tokens=max_tokens,
        layout=loaded.layout,
    )
    return questions, examiner()


def write_answers(questions: Sequence[Question], answers: Answers, path: pathlib.Path) -> None:
    """Writes a .jsonl file: the row, the prompt, the right answer, that of the model, and the judgement of each."""
    rows = (
        {"row": one.where, "prompt": one.messages, "answer": one.answer, "given": text, **verdict._asdict()}
        for one, text, verdict in zip(questions, answers.texts, answers.verdicts, strict=True)
    )
    write_rows(path, rows)


def table(answers: Answers) -> str:
    """The accuracies with their standard errors, for a person."""
    numbers = answers.numbers()
    count = len(answers.texts)
    lines = [f"{count:,} questions"]
    for name, label in (("accuracy", "exact match"), ("accuracy_lenient", "lenient")):
        share = numbers[name]
        lines.append(f"{label:<12} {share:>7.1%}  (standard error {math.sqrt(share * (1 - share) / count):.1%})")
    if answers.unfinished:
        lines.append(f"{answers.unfinished:,} answers did not end within the allowed tokens")
    return "\n".join(lines)
