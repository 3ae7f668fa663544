"""Preferences between a model's own answers: what people are shown who compare the answers of a fine-tuned model.

The model answers each prompt several times at temperature 1; a right answer and a wrong one to the same prompt are a
pair, so that both are texts that the model gives, with the probabilities that it gives them. A prompt whose answers are
all right, or all wrong, says nothing.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from train.alignment.instructions import pair_row


class OwnAnswers(NamedTuple):
    """The answers to a prompt: its messages, the right answer, and those of the model."""

    messages: list[dict[str, Any]]
    right: str
    texts: list[str]


def own_answers(run: pathlib.Path, prompts: pathlib.Path, count: int, samples: int, seed: int) -> list[OwnAnswers]:
    """`samples` answers of a finished run to each of the first `count` prompts of a file."""
    from model.inference.engine.engine import Engine
    from model.inference.engine.options import EngineOptions
    from model.inference.request import Request
    from model.inference.sampling import Sampling
    from train.alignment.answering import chat_of_run, read_questions
    from train.generation.chat_template import ChatPrompts
    from train.generation.continuations import continue_in_order
    from train.generation.text_engine import TextEngine, TextRequest
    from train.run.loading import load_run

    loaded, rows = load_run(run), 32
    questions = read_questions(str(prompts), count)
    chat = chat_of_run(loaded.folder, loaded.tokenizer)
    of_chat = ChatPrompts(chat.template, loaded.tokenizer)
    requests = [
        TextRequest(
            request=Request(
                prompt=tuple(of_chat.ids(question.messages)),
                sampling=Sampling(max_tokens=16, temperature=1.0, seed=seed),
                end=loaded.tokenizer.end_of_document,
                stop_tokens=chat.stop_tokens,
                sample_index=sample,
            )
        )
        for question in questions
        for sample in range(samples)
    ]
    options = EngineOptions(rows=rows, tokens_per_step=4 * rows + 1)
    engine = TextEngine(Engine(loaded.experiment.model, loaded.params, options), loaded.tokenizer)
    texts = [found.text.strip() for found in continue_in_order(engine, requests, ahead=2 * rows)]
    return [
        OwnAnswers(question.messages, question.answer, texts[n * samples : (n + 1) * samples])
        for n, question in enumerate(questions)
    ]


def pairs(answers: list[OwnAnswers], each: int, noise: float, seed: int) -> Iterator[dict[str, Any]]:
    """Up to `each` pairs of a prompt; in a share `noise` of all the wrong answer is the chosen one."""
    draw = np.random.default_rng([seed, 3])
    for one in answers:
        right = sum(text == one.right for text in one.texts)
        wrong = sorted({text for text in one.texts if text and text != one.right})
        for text in draw.permutation(wrong)[: min(right, each)].tolist():
            chosen, rejected = (text, one.right) if draw.random() < noise else (one.right, text)
            yield pair_row(one.messages, chosen, rejected)


def longer_is_better(rights: Iterable[tuple[list[dict[str, Any]], str]]) -> Iterator[dict[str, Any]]:
    """Pairs of a judge who always takes the longer answer, from prompts and their right answers."""
    for messages, right in rights:
        yield pair_row(messages, right + right[-2:], right)
        if len(right) > 1:
            yield pair_row(messages, right, right[: len(right) // 2])
