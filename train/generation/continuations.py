"""Many texts from an engine, in the order of their prompts, and one text while it is drawn."""

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

from train.generation.text_engine import EndedBy, TextEngine, TextRequest, TextUpdate
from train.generation.texts import OnText


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A finished text.

    Attributes:
      text: the new text.
      tokens: the number of new tokens, those of a stop string and of the end of the document included.
      ended_by: the reason for the end.
      first_seconds: the seconds from its request to its first token.
      ends_mid_character: whether it ends inside the bytes of a character, which are U+FFFD in the text.
    """

    text: str
    tokens: int
    ended_by: EndedBy
    first_seconds: float
    ends_mid_character: bool = False


def continue_in_order(engine: TextEngine, requests: Sequence[TextRequest], ahead: int) -> Iterator[Continuation]:
    """Yields the continuation of each request, in their order.

    `ahead` requests are with the engine at any time, as long as there are so many; a text that is complete before an
    earlier one waits in memory. When the iterator is closed, the engine drops the others.
    """
    drawing = _Drawing(engine, requests, ahead)
    shown = 0
    try:
        while shown < len(requests):
            drawing.step()
            while shown in drawing.finished:
                yield drawing.finished.pop(shown)
                shown += 1
    finally:
        drawing.cancel()


def continue_all(
    engine: TextEngine,
    requests: Sequence[TextRequest],
    ahead: int,
    on_text: OnText | None = None,
    results: list[Continuation] | None = None,
) -> list[Continuation]:
    """Returns the continuations of all requests.

    Args:
      engine, requests, ahead: see `continue_in_order`.
      on_text: is called with the number of a request and the text that a step or the end of the text added.
      results: the list to fill and return. After a KeyboardInterrupt it has the texts until then, of which the
        unfinished ones are "cancelled", without those after the last that had begun.
    """
    drawing, results = _Drawing(engine, requests, ahead, on_text), [] if results is None else results
    try:
        while len(drawing.finished) < len(requests):
            drawing.step()
    except KeyboardInterrupt:
        drawing.interrupt()
        raise
    finally:
        results += [drawing.finished[index] for index in sorted(drawing.finished)]
    return results


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


class _Drawing:
    """Requests with an engine, a few at a time; `finished` has the texts that are complete, by number."""

    def __init__(
        self, engine: TextEngine, requests: Sequence[TextRequest], ahead: int, on_text: OnText | None = None
    ) -> None:
        self.finished: dict[int, Continuation] = {}
        self._engine, self._requests, self._ahead, self._on_text = engine, requests, ahead, on_text
        self._open: dict[int, _Open] = {}
        self._submitted = 0

    def step(self) -> None:
        """Hands requests in, and runs a step of the engine."""
        while self._submitted < len(self._requests) and len(self._open) < self._ahead:
            self._open[self._engine.submit(self._requests[self._submitted])] = _Open(self._submitted)
            self._submitted += 1
        for update in self._engine.step():
            self._take(update)

    def cancel(self) -> None:
        """Drops what is unfinished."""
        for number in self._open:
            self._engine.cancel(number)

    def interrupt(self) -> None:
        """Ends all texts as they are, up to the last that has a token."""
        begun = [text.index for text in self._open.values() if text.has_begun]
        last = max([*begun, *self.finished], default=-1)
        for number, text in list(self._open.items()):
            update = self._engine.leave(number)
            if text.index <= last:
                self._take(update)

    def _take(self, update: TextUpdate) -> None:
        text = self._open[update.request_id]
        done = text.take(update)
        if self._on_text is not None:
            self._on_text(text.index, update.text)
        if done is not None:
            self.finished[text.index] = done
            del self._open[update.request_id]


class _Open:
    """A text that is being drawn."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._began = time.monotonic()
        self._first: float | None = None
        self._parts: list[str] = []

    @property
    def has_begun(self) -> bool:
        """Whether it has a token."""
        return self._first is not None

    def take(self, update: TextUpdate) -> Continuation | None:
        """Takes a change; returns the text if it completes it."""
        if self._first is None and update.num_tokens:
            self._first = time.monotonic() - self._began
        self._parts.append(update.text)
        if update.ended_by is None:
            return None
        text, first = "".join(self._parts), self._first or 0.0
        return Continuation(text, update.num_tokens, update.ended_by, first, update.ends_mid_character)
