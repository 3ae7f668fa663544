"""Text completions: the parameters of `/v1/completions`, and its answers."""

from collections.abc import Sequence
from typing import Any

from model.errors import UserError
from train.generation.prompts import check_text
from train.generation.text_engine import TextUpdate
from train.generation.texts import prompt_ids
from train.serving.parameters.body import Parameters, is_ids
from train.serving.parameters.errors import bad_parameter
from train.serving.parameters.jobs import MOST_LOGPROBS, Job, check_ids, check_model, make_job
from train.serving.parameters.options import Served
from train.serving.token_texts import TokenTexts, finite

DEFAULT_TOKENS = 16  # of the interface
FINISH_REASONS = {
    "end_of_document": "stop",
    "stop_token": "stop",
    "stop_string": "stop",
    "constraint": "stop",
    "max_tokens": "length",
    "context": "length",
}


def completion_job(parameters: Parameters, served: Served) -> Job:
    """The job of a body. Raises ApiError."""
    check_model(parameters, served)
    given = prompts_of(parameters, served)
    echo = parameters.flag("echo")
    if echo and served.encoder is not None:
        raise bad_parameter(
            "echo", "has no effect: the model reads a prompt as a source, and its answer is another text"
        )
    max_tokens = parameters.whole("max_tokens", DEFAULT_TOKENS, 0 if echo else 1)
    return make_job(
        parameters,
        served,
        [ids for ids, _ in given],
        max_tokens,
        names=["the prompt" if len(given) == 1 else f"prompt {number}" for number, _ in enumerate(given, start=1)],
        num_logprobs=parameters.whole("logprobs", None, 0, MOST_LOGPROBS),
        echo=[text for _, text in given] if echo else None,
    )


def prompts_of(parameters: Parameters, served: Served) -> list[tuple[Sequence[int], str]]:
    """The ids and the text of each prompt: a text, a list of texts, ids, or a list of ids. Raises ApiError."""
    marked = parameters.flag("add_special_tokens", True)
    value = parameters.take("prompt")
    if value is None:
        raise bad_parameter("prompt", "is missing; give a text, a list of texts, ids, or a list of lists of ids")
    if isinstance(value, str) or (value and is_ids(value)):
        value = [value]
    if not isinstance(value, list) or not value:
        raise parameters.wrong("prompt", "a text, a list of texts, ids, or a list of lists of ids", value)
    found: list[tuple[Sequence[int], str]] = []
    for number, prompt in enumerate(value, start=1):
        if isinstance(prompt, str):
            found.append((text_ids(prompt, served, marked=marked), prompt))
        elif prompt and is_ids(prompt):
            ids = check_ids("prompt", prompt, served)
            found.append((ids, served.tokenizer.decode(ids)))
        else:
            raise bad_parameter("prompt", f"number {number} is neither a text nor a list of ids with at least one id")
    return found


def text_ids(text: str, served: Served, *, marked: bool) -> list[int]:
    """The ids of a text, with the mark that begins a document, or ends a source, if `marked`. Raises ApiError."""
    try:
        check_text(text, "the text", "half of a pair such as \\ud83d\\ude00 stands alone; write both")
        source = served.encoder is not None
        ids = prompt_ids(served.tokenizer, text, is_source=source) if marked else served.tokenizer.encode(text).tolist()
    except UserError as error:
        raise bad_parameter("prompt", f"cannot be encoded: {error}") from None
    if not ids:
        raise bad_parameter("prompt", "has no token; give a text, or at least one id")
    return ids


class Completions:
    """Writes the answers of a job in the form of `/v1/completions`."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, job: Job, texts: TokenTexts) -> None:
        self._job, self._texts = job, texts

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The choices that a stream begins with: none."""
        return []

    def choice(self, index: int, update: TextUpdate, *, first: bool) -> dict[str, Any]:
        """A change of a text; the first one brings the prompt, if it is echoed.

        Args:
          index: the number of the text.
          update: its change, or all its changes together.
          first: whether it is the first of this text.
        """
        echo = self._job.echo[index // self._job.samples] if self._job.echo is not None else ""
        new = "" if self._job.no_new_tokens else update.text
        return {
            "index": index,
            "text": echo + new if first else new,
            "logprobs": self._logprobs(index, update, len(echo), first) if self._job.logprobs else None,
            "finish_reason": FINISH_REASONS.get(update.ended_by or ""),
        }

    def _logprobs(self, index: int, update: TextUpdate, echoed: int, first: bool) -> dict[str, Any]:
        by_id = self._job.labels_by_id
        tokens: list[str] = []
        logprobs: list[float | None] = []
        likeliest: list[dict[str, float] | None] = []
        offsets: list[int] = []
        if first and self._job.echo is not None:
            ids = self._job.prompts[index // self._job.samples]
            scores = update.prompt or ()
            tokens += [self._texts.label(token, by_id) for token in ids]
            logprobs += [None, *(finite(score.logprob or 0.0) for score in scores)]
            likeliest += [None, *(self._texts.top_logprobs(score, by_id) for score in scores)]
            offsets += [min(offset, echoed) for offset in self._texts.offsets(ids)]
        for token in () if self._job.no_new_tokens else update.tokens:
            tokens.append(self._texts.label(token.score.token, by_id))
            logprobs.append(finite(token.score.logprob or 0.0))
            likeliest.append(self._texts.top_logprobs(token.score, by_id))
            offsets.append(echoed + token.offset)
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": likeliest, "text_offset": offsets}

    def whole(self, index: int, update: TextUpdate) -> dict[str, Any]:
        """A complete text."""
        return self.choice(index, update, first=True)
