"""Progress of a long piece of work: a live bar on a terminal, plain lines every few seconds anywhere else.

    with Progress("train", total=2000, start=500) as progress:
        progress.update(501, loss=3.21, tokens_per_second=12_300, mfu=None)
        progress.message("saved checkpoint 500")

Both go to standard error, so that standard output stays clean for other programs.
"""

import collections
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Self, TextIO

from train.terminal.formatting import escape_unprintable_lines, format_bytes, format_duration, format_metric

_NO_CURSOR = ("", "dumb", "unknown")  # values of TERM
_MIN_COLUMNS = 20  # columns
_RATE_WINDOW = 60.0  # seconds over which the speed behind the remaining time is measured


class Progress:
    """The progress of one piece of work of `total` units (None when unknown), begun at unit `start`.

    The remaining time is the time until unit `until` (by default `total`); time spent `paused` does not count. Units
    named "bytes" are shown in MB or GB, with the mean speed since the start.

    On a terminal: one bar that redraws itself four times a second; messages, and all other output of Python, appear
    above it in whole lines. Elsewhere: one line at the first update, every `every` seconds and at the end.
    `enabled=False` shows nothing, for the processes other than the first. A context manager.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        start: int = 0,
        until: int | None = None,
        every: float = 10.0,
        enabled: bool = True,
        unit: str = "",
        stream: TextIO | None = None,
    ) -> None:
        self.title, self.total, self.done = title, total, start
        self._until = total if until is None else until
        self._unit, self._start = unit, start
        self._stream = sys.stderr if stream is None else stream
        self._every, self._enabled = every, enabled and self._stream is not None  # a process may have none
        self._values: dict[str, float | str | None] = {}
        self._began = time.monotonic()
        self._history: collections.deque[tuple[float, int]] = collections.deque()
        self._line_time, self._line_done = -float("inf"), -1
        self._bar: Any = None
        if self._enabled and self._stream.isatty() and os.environ.get("TERM", "") not in _NO_CURSOR:
            self._bar = _start_bar(self)

    def update(self, done: int, **values: float | str | None) -> None:
        """Sets the total number of finished units. Costs a microsecond.

        Values are shown by their names (`loss`, `mfu`, `tokens_per_second`, any other); a value stays until it is given
        again, and None hides it.
        """
        now = time.monotonic()
        self.done = done
        self._values.update(values)
        # The first update comes after compilation, whose time says nothing about the speed of later updates.
        if not self._history or now - self._history[-1][0] > _RATE_WINDOW / 60:
            self._history.append((now, done))
            while now - self._history[0][0] > _RATE_WINDOW and len(self._history) > 2:
                self._history.popleft()
        if self._bar is None and self._enabled and now - self._line_time >= self._every:
            self._print_line(now)

    def message(self, text: str) -> None:
        """Prints a line of text above the bar, or among the plain lines."""
        text = escape_unprintable_lines(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the speed behind the remaining time."""
        began = time.monotonic()
        yield
        away = time.monotonic() - began
        self._history = collections.deque((when + away, done) for when, done in self._history)

    def close(self) -> None:
        """Leaves the last state on the screen. A second call does nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._enabled and self._line_done not in (self.done, -1):
            self._print_line(time.monotonic())
        self._enabled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def position(self) -> str:
        """The position: "120/2000", or "120" when the total is not known; in bytes "1.20 GB / 13.5 GB"."""
        if self._unit == "bytes":
            return " / ".join(format_bytes(n) for n in (self.done, self.total) if n is not None)
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    def describe(self) -> str:
        """The values and the time: "loss 3.2100  12.3k tokens/s  ETA 1m 40s"."""
        values = list(self._values.items())  # a copy: the bar's thread reads while the loop writes
        parts = [format_metric(name, value) for name, value in values if value is not None]
        elapsed = time.monotonic() - self._began
        if self._unit == "bytes" and elapsed > 0 and self.done > self._start:
            parts.append(f"{format_bytes((self.done - self._start) / elapsed)}/s")
        remaining = self._seconds_remaining()
        if self._until is not None and self.done >= self._until:
            parts.append(f"in {format_duration(time.monotonic() - self._began)}")
        elif remaining is not None:
            parts.append(f"ETA {format_duration(remaining)}")
        return "  ".join(parts)

    def _seconds_remaining(self) -> float | None:
        if self._until is None or not self._history:
            return None
        began, first = self._history[0]
        elapsed, finished = time.monotonic() - began, self.done - first
        return (self._until - self.done) * elapsed / finished if finished > 0 and elapsed > 0 else None

    def _print_line(self, now: float) -> None:
        self._line_time, self._line_done = now, self.done
        width = len(f"{self.total:,}") * 2 + 1 if self.total is not None and not self._unit else 0
        print(
            f"{self.title}  {self.position():>{width}}  {self.describe()}".rstrip(),
            file=self._stream,
            flush=True,
        )


def _start_bar(progress: Progress) -> Any:
    """A rich bar that asks the Progress for its text whenever it draws, so that an update need not draw.

    None for a terminal that is too narrow for a bar, or reports no width.
    """
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class Bar(BarColumn):
        def render(self, task: Task) -> Any:
            task.completed, task.total = progress.done, progress.total
            return super().render(task)

    class Now(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{progress.position()}  {progress.describe()}")

    console = Console(file=progress._stream, highlight=False)
    if console.width < _MIN_COLUMNS:
        return None
    bar = RichProgress(
        TextColumn("{task.description}", markup=False),
        Bar(bar_width=24 if console.width >= 90 else 8),
        Now(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=console,
        refresh_per_second=4,
        expand=True,
        # Printed text goes above the bar only when it would appear on the same screen.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
    )
    bar.add_task(progress.title, total=progress.total, completed=progress.done)
    bar.start()
    return bar
