"""Progress of preparing data: silent by default, or the live bar and plain lines of `train.terminal.progress`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from train.terminal.progress import Progress


class StageProgress:
    """One stage of the work. Counts in bytes: `bytes` read, `encoded` text in them, `resumed` from an earlier run."""

    def __init__(self) -> None:
        self.documents = self.tokens = self.bytes = self.encoded = self.resumed = 0
        self._started = time.perf_counter()

    def advance(
        self, bytes: int = 0, documents: int = 0, tokens: int = 0, encoded: int = 0, resumed: bool = False
    ) -> None:
        """Adds the work done since the last call."""
        self.bytes += bytes
        self.documents += documents
        self.tokens += tokens
        self.encoded += encoded
        self.resumed += bytes if resumed else 0

    def seconds(self) -> float:
        """The time since the stage began."""
        return time.perf_counter() - self._started

    def rates(self) -> dict[str, float]:
        """Documents, tokens and megabytes per second, and bytes per token, for the work of this run."""
        seconds, worked = max(self.seconds(), 1e-9), self.bytes - self.resumed
        rates = {"MB_per_second": worked / 1e6 / seconds}
        if self.tokens:
            rates = {
                "documents_per_second": self.documents / seconds,
                "tokens_per_second": self.tokens / seconds,
            } | rates
            rates["bytes_per_token"] = self.encoded / self.tokens
        return rates


class Reporter:
    """The reporter that `prepare` calls; this one prints nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total_bytes: int) -> Iterator[StageProgress]:
        """Reports a stage of the work by its name, over `total_bytes` of text (0: unknown)."""
        yield StageProgress()

    def message(self, text: str) -> None:
        """Takes a line that the user should see."""


class TerminalReporter(Reporter):
    """A live bar for every stage on a terminal, lines elsewhere; both count megabytes of text."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def message(self, text: str) -> None:
        """Prints a line that the user should see."""
        print(text, file=sys.stderr if self._stream is None else self._stream, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str, total_bytes: int) -> Iterator[StageProgress]:
        """Reports a stage of the work by its name, over `total_bytes` of text (0: unknown)."""
        if not total_bytes:
            with Progress(name, total=1, stream=self._stream) as display:
                display.update(0)
                yield StageProgress()
                display.update(1)
            return
        with Progress(f"{name}, MB", total=_megabytes(total_bytes), stream=self._stream) as display:
            stage = _DisplayedProgress(display)
            yield stage
            stage.show(_megabytes(total_bytes))


class _DisplayedProgress(StageProgress):
    def __init__(self, display: Progress) -> None:
        super().__init__()
        self._display = display

    def advance(
        self, bytes: int = 0, documents: int = 0, tokens: int = 0, encoded: int = 0, resumed: bool = False
    ) -> None:
        super().advance(bytes, documents, tokens, encoded, resumed)
        # The last megabyte is shown when the work is done, with the final rates.
        if self._display.total is None or _megabytes(self.bytes) < self._display.total:
            self.show(_megabytes(self.bytes))

    def show(self, megabytes: int) -> None:
        """Shows the state of the stage."""
        done_before = f"{_megabytes(self.resumed)} MB" if self.resumed else None
        rates: dict[str, float | str | None] = dict(self.rates()) if self.bytes > self.resumed else {}
        self._display.update(megabytes, **rates, done_before=done_before)


def _megabytes(size: int) -> int:
    return -(-size // 1_000_000)
