"""Many texts from an engine, in the order of their prompts, and one text while it is drawn."""

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

from train.generation.text_engine import EndedBy, TextEngine, TextRequest, TextUpdate


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A finished text.

    Attributes:
      text: the new text.
      tokens: the number of new tokens, those of a stop string and of the end of the document included.
      ended_by: the reason for the end.
      first_seconds: the seconds from its request to its first token.
    """

    text: str
    tokens: int
    ended_by: EndedBy
    first_seconds: float


def continue_in_order(engine: TextEngine, requests: Sequence[TextRequest], ahead: int) -> Iterator[Continuation]:
    """Yields the continuation of each request, in their order.

    `ahead` requests are with the engine at any time, as long as there are so many; a text that is complete before an
    earlier one waits in memory. When the iterator is closed, the engine drops the others.
    """
    open_texts: dict[int, _Open] = {}
    finished: dict[int, Continuation] = {}
    submitted = shown = 0
    try:
        while shown < len(requests):
            while submitted < len(requests) and len(open_texts) < ahead:
                open_texts[engine.submit(requests[submitted])] = _Open(submitted)
                submitted += 1
            for update in engine.step():
                if (done := open_texts[update.request_id].take(update)) is not None:
                    finished[open_texts.pop(update.request_id).index] = done
            while shown in finished:
                yield finished.pop(shown)
                shown += 1
    finally:
        for number in open_texts:
            engine.cancel(number)


def continue_one(engine: TextEngine, request: TextRequest) -> Iterator[str | Continuation]:
    """Yields the pieces of a text as they are drawn, then the whole."""
    number, text = engine.submit(request), _Open(0)
    try:
        while True:
            for update in engine.step():
                if update.request_id == number:
                    done = text.take(update)
                    if update.text:
                        yield update.text
                    if done is not None:
                        yield done
                        return
    finally:
        engine.cancel(number)


def describe_speed(texts: Sequence[Continuation], seconds: float) -> str:
    """A line with the number of texts and tokens, the tokens in a second, and the times to first tokens."""
    tokens = sum(text.tokens for text in texts)
    line = f"{len(texts):,} {'text' if len(texts) == 1 else 'texts'}, {tokens:,} tokens in {seconds:.1f} s"
    if tokens and seconds > 0:
        line += f": {tokens / seconds:,.0f} tokens/s"
    if texts:
        first = sorted(text.first_seconds for text in texts)
        line += f"; time to first token {statistics.median(first):.2f} s"
        if len(first) > 1:
            line += f" (median; at most {first[-1]:.2f} s)"
    return line


class _Open:
    """A text that is being drawn."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._began = time.monotonic()
        self._first: float | None = None
        self._parts: list[str] = []

    def take(self, update: TextUpdate) -> Continuation | None:
        """Takes a change; returns the text if it completes it."""
        if self._first is None and update.num_tokens:
            self._first = time.monotonic() - self._began
        self._parts.append(update.text)
        if update.ended_by is None:
            return None
        return Continuation("".join(self._parts), update.num_tokens, update.ended_by, self._first or 0.0)
