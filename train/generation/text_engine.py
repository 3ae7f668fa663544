"""Texts from an engine of ids: new ids become text as they come, and a stop string ends its text alone.

The engine's steps are the caller's: nothing here has a thread or a clock. See `model.inference.request` for requests.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from model.errors import UserError
from model.inference.request import Request, TokenScore, Update
from train.data.tokenizers.interface import Tokenizer
from train.generation.texts import TextStream

EndedBy = Literal[
    "end_of_document", "stop_token", "stop_string", "constraint", "dead_end", "max_tokens", "context", "cancelled"
]  # fmt: skip


class IdEngine(Protocol):
    """The engine of ids (model/inference/engine), as far as texts need it."""

    @property
    def num_unfinished(self) -> int:
        """The number of requests whose last update is still to come."""

    @property
    def statistics(self) -> Any:
        """Its counters."""

    def submit(self, request: Request) -> int:
        """Takes a request and returns its number. Raises UserError for a request that never fits."""

    def cancel(self, request_id: int) -> None:
        """Ends a request: an update that says so comes with the next step."""

    def step(self) -> list[Update]:
        """Computes one step; returns the updates of the requests that it advanced."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest:
    """One text to continue.

    Attributes:
      request: the prompt's ids, and the rules that choose new ones.
      stop_strings: the text ends before the first of them, wherever tokens begin and end.
    """

    request: Request
    stop_strings: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if "" in self.stop_strings:
            yield "stop_strings", "has an empty string; expected at least one character in each"


@dataclasses.dataclass(frozen=True)
class TextToken:
    """A new token and its place.

    Attributes:
      score: the token with its log-probabilities.
      offset: the number of characters of the new text before it. Tokens that share a character have one offset.
    """

    score: TokenScore
    offset: int


@dataclasses.dataclass(frozen=True)
class TextUpdate:
    """One step's change of a text.

    Attributes:
      request_id: the number that `TextEngine.submit` returned.
      text: the characters that no later token changes; joined over the updates they are the whole text.
      tokens: the tokens whose characters began to be shown. The tokens of a stop string are never among them.
      num_tokens: the number of all new tokens so far, those of a stop string included.
      prompt: the scores of the prompt's tokens after its first, once, if they were asked for.
      ended_by: the reason why the text is complete; None while it goes on.
      ends_mid_character: whether it ends inside the bytes of a character, which are U+FFFD in the text.
    """

    request_id: int
    text: str
    tokens: tuple[TextToken, ...]
    num_tokens: int
    prompt: tuple[TokenScore, ...] | None = None
    ended_by: EndedBy | None = None
    ends_mid_character: bool = False


class TextEngine:
    """Continues texts with an engine of ids. One thread at a time may call it."""

    def __init__(self, engine: IdEngine, tokenizer: Tokenizer) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._texts: dict[int, _Text] = {}

    @property
    def num_unfinished(self) -> int:
        """The number of requests that a further step may advance, those that a stop string has just ended included."""
        return self._engine.num_unfinished

    @property
    def statistics(self) -> Any:
        """The counters of the engine."""
        return self._engine.statistics

    def submit(self, request: TextRequest) -> int:
        """Takes a request and returns its number. Raises UserError for an invalid one, and for one that never fits."""
        if problems := [f"{name} {problem}" for name, problem in request.problems()]:
            raise UserError("; ".join(problems))
        number = self._engine.submit(request.request)
        self._texts[number] = _Text(self._tokenizer, request)
        return number

    def cancel(self, request_id: int) -> None:
        """Ends a text; its last update comes with the next step. No effect on a text that is complete or unknown."""
        if request_id in self._texts:
            self._engine.cancel(request_id)

    def leave(self, request_id: int) -> TextUpdate:
        """Ends an unfinished text without a step of the engine, which may be amid one; returns the text held back."""
        return self._texts.pop(request_id).take(Update(request_id, (), ended_by="cancelled"))

    def step(self) -> list[TextUpdate]:
        """Computes one step of the engine; returns the changes of texts."""
        updates = []
        for update in self._engine.step():
            text = self._texts.get(update.request_id)
            if text is None:  # a stop string ended it before
                continue
            updates.append(changed := text.take(update))
            if changed.ended_by is not None:
                del self._texts[update.request_id]
                if update.ended_by is None:
                    self._engine.cancel(update.request_id)
        return updates


class _Text:
    """One unfinished text."""

    def __init__(self, tokenizer: Tokenizer, request: TextRequest) -> None:
        before = request.request.prompt if request.request.source is None else request.request.prompt[1:]
        self._stream = TextStream(tokenizer, before, request.stop_strings)  # a start token is no text
        self._waiting: collections.deque[TextToken] = collections.deque()
        self._shown = self._num_tokens = 0

    def take(self, update: Update) -> TextUpdate:
        """The change of the text that an update of ids brings."""
        text = ""
        for place, score in enumerate(update.tokens, start=1):
            self._num_tokens += 1
            self._waiting.append(TextToken(score, self._stream.decoded))
            # A stop token ends the text and is no part of it.
            if not (update.ended_by == "stop_token" and place == len(update.tokens)):
                text += self._stream.push(score.token)
            if self._stream.stopped:  # tokens that were accepted together may follow a stop string
                break
        ended_by: EndedBy | None = "end_of_document" if update.ended_by == "end_mark" else update.ended_by
        if not self._stream.stopped and ended_by is not None:
            text += self._stream.finish(truncated=ended_by in ("max_tokens", "context", "cancelled", "dead_end"))
        if self._stream.stopped:
            ended_by = "stop_string"
        self._shown += len(text)
        tokens = tuple(self._released(whole=ended_by not in (None, "stop_string")))
        torn = self._stream.ends_mid_character
        return TextUpdate(update.request_id, text, tokens, self._num_tokens, update.prompt, ended_by, torn)

    def _released(self, whole: bool) -> Iterator[TextToken]:
        """Takes the tokens whose characters are shown out of those that wait; all of them at the end of the text."""
        while self._waiting and (whole or self._waiting[0].offset < self._shown):
            yield self._waiting.popleft()
