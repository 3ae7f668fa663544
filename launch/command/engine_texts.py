"""Texts that the engine draws for launch.generate: for the terminal, many into a file, or a chat."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from launch.command import streams
from model.errors import UserError
from model.inference.engine.draft import DraftModel
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.generate import cache_slots
from model.inference.prompts import occurrence_indices
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.inference.sources import prompt_and_source, slots_of
from model.options.json import to_json
from train.evaluation.stored_scores import fingerprint_of_params
from train.generation.chat_template import NO_TEMPLATE, chat_prompts, stop_tokens
from train.generation.constraints import Constraints, Form
from train.generation.continuations import (
    Continuation,
    continue_all,
    continue_in_order,
    continue_one,
    describe_speed,
)
from train.generation.prompts import Prompt
from train.generation.results_file import ResultsFile, numbered
from train.generation.text_engine import TextEngine, TextRequest
from train.generation.texts import OnText, check_prompts
from train.run.loading import LoadedRun
from train.terminal.progress import Progress


class EngineTexts:
    """Draws texts of one run with one set of rules.

    Attributes:
      cache_bytes: the bytes of the engine's cache.
    """

    def __init__(
        self,
        run: LoadedRun,
        sampling: Sampling,
        *,
        stop_strings: tuple[str, ...],
        engine: EngineOptions,
        draft: DraftModel | None = None,
        chat: bool,
        chat_template: str | None,
        form: Form | None = None,
    ) -> None:
        """Makes the engine. Raises UserError for a chat without a template, and for a form that cannot be used.

        Args:
          run: the model.
          sampling: the rules that choose tokens, and how many.
          stop_strings: strings that end a text.
          engine: the options of the engine.
          draft: the model that guesses tokens, or None.
          chat: whether prompts are messages.
          chat_template: a file with a chat template; None for the run's own.
          form: the texts that may be drawn; None for all.
        """
        self._run, self._sampling, self._stops, self._rows = run, sampling, stop_strings, engine.rows
        self._chat = chat_prompts(run.folder, run.tokenizer, chat_template) if chat else None
        if chat and self._chat is None:
            raise UserError(NO_TEMPLATE)
        # A published model marks the end of its turn with a token of its own.
        self._ends = stop_tokens(run.folder, run.tokenizer) if chat else ()
        self._constraint = None if form is None else Constraints(run.tokenizer).of(form)
        made = Engine(run.experiment.model, run.params, engine, layout=run.layout, draft=draft)
        self._engine, self.cache_bytes = TextEngine(made, run.tokenizer), made.capacity.cache_bytes
        self._settings: dict[str, Any] = {
            "step": run.step,
            "sampling": to_json(sampling),
            "stop": list(stop_strings),
            "chat": chat_template if chat else None,
            "is_chat": chat,
        }
        if form is not None:
            self._settings["form"] = [form.kind, form.source]

    def draw(self, prompts: Sequence[Prompt], samples: int, on_text: OnText, results: list[Continuation]) -> None:
        """Draws `samples` texts of each prompt; see `continue_all`."""
        continue_all(self._engine, self._requests(prompts, samples), 2 * self._rows, on_text, results)

    def write(self, prompts: Sequence[Prompt], samples: int, path: pathlib.Path) -> None:
        """Writes `samples` texts of each prompt into a file; continues it if it has some of them already."""
        lines = numbered([prompt.text for prompt in prompts], samples)
        requests = self._requests(prompts, samples)
        settings = self._settings | {"parameters": fingerprint_of_params(self._run.params)}
        began, texts = time.monotonic(), []
        with (
            ResultsFile(path, lines, settings) as file,
            Progress("generate", len(lines), start=file.done) as progress,
        ):
            progress.update(file.done)
            tokens = 0
            left = continue_in_order(self._engine, requests[file.done :], ahead=2 * self._rows)
            for index, text in enumerate(left, start=file.done):
                file.append(index, text)
                texts.append(text)
                tokens += text.tokens
                rate = tokens / max(time.monotonic() - began, 1e-9)
                progress.update(index + 1, tokens_per_second=rate)
        self._report(texts, time.monotonic() - began)

    def converse(self, messages: Sequence[str] | None) -> None:
        """Answers messages one after the other, as one conversation; None for those that are typed."""
        texts, began = [], time.monotonic()
        past: list[dict[str, str]] = []
        for message in _typed() if messages is None else messages:
            asked = [*past, {"role": "user", "content": message}]
            assert self._chat is not None
            try:
                row = self._fitting(self._chat.ids(asked), "the conversation")
            except UserError as error:
                if messages is not None:
                    raise
                print(f"error: {error}", file=sys.stderr)  # the conversation goes on without this message
                continue
            answer = self._answer(self._request(row, 0))
            texts.append(answer)
            past = [*asked, {"role": "assistant", "content": answer.text}]
        self._report(texts, time.monotonic() - began)

    def _answer(self, request: TextRequest) -> Continuation:
        """Prints a text while it is drawn."""
        for piece in continue_one(self._engine, request):
            if isinstance(piece, Continuation):
                print(flush=True)
                return piece
            print(piece, end="", flush=True)
            streams.check_reader()
        raise AssertionError("a text has an end")

    def _requests(self, prompts: Sequence[Prompt], samples: int) -> list[TextRequest]:
        rows = [row for row in self._ids_of(prompts) for _ in range(samples)]
        return [self._request(row, before) for row, before in zip(rows, occurrence_indices(rows), strict=True)]

    def _ids_of(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        if self._chat is None:
            texts, names = zip(*prompts, strict=True)
            return list(map(tuple, check_prompts(self._run.experiment.model, self._run.tokenizer, texts, names)))
        rows = [self._chat.ids([{"role": "user", "content": prompt.text}]) for prompt in prompts]
        return [self._fitting(row, prompt.where) for row, prompt in zip(rows, prompts, strict=True)]

    def _fitting(self, ids: Sequence[int], name: str) -> tuple[int, ...]:
        """Ids that fit the context, or that of the encoder. Raises UserError for more."""
        model = self._run.experiment.model
        context = model.context_length if model.encoder is None else model.encoder.context_length
        if not 0 < len(ids) <= context:
            raise UserError(
                f"{name} has {len(ids)} tokens with its chat template; expected 1 to {context}, the context"
            )
        return tuple(ids)

    def _report(self, texts: Sequence[Continuation], seconds: float) -> None:
        print(f"{describe_speed(texts, seconds)}; compilation included{self.describe_guesses()}", file=sys.stderr)

    def describe_guesses(self) -> str:
        """How many guesses were right, after a semicolon; nothing without guesses."""
        counts = self._engine.statistics
        if not counts.proposed_tokens:
            return ""
        rate = f"; {counts.acceptance_rate:.0%} of {counts.proposed_tokens:,} guesses right"
        return f"{rate}, {counts.tokens_per_text_step:.2f} tokens of a text a step"

    def _request(self, ids: tuple[int, ...], sample_index: int) -> TextRequest:
        tokenizer = self._run.tokenizer
        prompt, source = prompt_and_source(self._run.experiment.model.encoder, ids)
        request = Request(
            prompt=prompt,
            source=source,
            sampling=self._sampling,
            begin=tokenizer.begin_of_document,
            end=tokenizer.end_of_document,
            stop_tokens=self._ends,
            sample_index=sample_index,
            constraint=self._constraint,
        )
        return TextRequest(request=request, stop_strings=self._stops)


def with_cache_for(options: EngineOptions, run: LoadedRun, prompts: Sequence[Prompt], max_tokens: int) -> EngineOptions:
    """Returns options whose cache holds the longest of these texts and sources in every row, unless they say its size.

    Raises UserError for prompts that `check_prompts` refuses.
    """
    if options.cache_tokens is not None:
        return options
    model, (texts, names) = run.experiment.model, zip(*prompts, strict=True)
    rows = check_prompts(model, run.tokenizer, texts, names)
    if model.encoder is not None:
        if options.source_tokens is None:
            longest = slots_of(max(map(len, rows)), model.encoder.context_length)
            options = dataclasses.replace(options, source_tokens=longest)
        rows = [[model.encoder.start_token]]
    pages = -(-cache_slots(model, rows, max_tokens) // options.page_size)
    return dataclasses.replace(options, cache_tokens=options.rows * pages * options.page_size)


def _typed() -> Iterator[str]:
    """The lines that a person types, until the end of input; blank ones are left out."""
    shown = sys.stdin.isatty()
    while True:
        if shown:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")
