"""How far the preparation of data is: silent by default, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO


class Stage:
    """One stretch of work. `bytes` count the text; work that an earlier run did is told as resumed."""

    def __init__(self) -> None:
        self.documents = self.tokens = self.bytes = self.resumed = 0
        self.started = time.perf_counter()

    def advance(self, bytes: int = 0, documents: int = 0, tokens: int = 0, resumed: bool = False) -> None:
        """Adds what was done since the last call."""
        self.bytes += bytes
        self.documents += documents
        self.tokens += tokens
        self.resumed += bytes if resumed else 0

    def seconds(self) -> float:
        """The time since the stage began."""
        return time.perf_counter() - self.started

    def rates(self) -> str:
        """Documents, tokens and bytes a second and bytes per token, of the work of this run."""
        seconds, worked = max(self.seconds(), 1e-9), self.bytes - self.resumed
        parts = [f"{worked / 1e6 / seconds:.2f} MB/s"]
        if self.tokens:
            parts = [
                f"{self.documents / seconds:,.0f} documents/s",
                f"{self.tokens / seconds:,.0f} tokens/s",
                *parts,
            ]
            parts.append(f"{worked / self.tokens:.3f} bytes/token")
        return ", ".join(parts)


class Progress:
    """Says nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total_bytes: int) -> Iterator[Stage]:
        """A stretch of work by its name, over so many bytes of text (0: unknown)."""
        yield Stage()


class TerminalProgress(Progress):
    """A bar for every stage on a terminal, a line at its end elsewhere."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr

    @contextlib.contextmanager
    def stage(self, name: str, total_bytes: int) -> Iterator[Stage]:
        """A stretch of work by its name, over so many bytes of text (0: unknown)."""
        if not self._file.isatty():
            stage = Stage()
            yield stage
            self._report(name, stage)
            return
        from tqdm import tqdm

        bar = tqdm(
            total=total_bytes or None, desc=name, unit="B", unit_scale=True, file=self._file, leave=False
        )
        stage = _BarStage(bar)
        with bar:
            yield stage
        self._report(name, stage)

    def _report(self, name: str, stage: Stage) -> None:
        ahead = f", {stage.resumed / 1e6:.1f} MB were done before" if stage.resumed else ""
        worked = stage.bytes - stage.resumed
        what = f": {worked / 1e6:.1f} MB, {stage.rates()}{ahead}" if stage.bytes else ""
        print(f"{name}: {stage.seconds():.1f} s{what}", file=self._file, flush=True)


class _BarStage(Stage):
    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar = bar

    def advance(self, bytes: int = 0, documents: int = 0, tokens: int = 0, resumed: bool = False) -> None:
        super().advance(bytes, documents, tokens, resumed)
        if self.tokens:
            self._bar.set_postfix_str(self.rates(), refresh=False)
        self._bar.update(bytes)
