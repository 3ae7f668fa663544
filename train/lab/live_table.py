"""The runs of a sweep while they run: a table on a terminal, a line for every change elsewhere; on standard error."""

import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any, Self, TextIO

from train.lab.folder import Progress, Run, progress_of
from train.terminal.formatting import escape_unprintable, format_duration, format_fixed

_NO_TABLE = ("", "dumb", "unknown")  # values of TERM
_READ_SECONDS = 1.0  # between two looks at the folders
_MARKS = {"waiting": "-", "interrupted": "interrupted", "stopped": "stopped", "failed": "FAILED"}


class LiveTable:
    """The states of some runs, under a title. A context manager.

    A row is a variant, a column a seed; a cell has the metric of the last evaluation, and the step of a run that is not
    at its end. `update` is cheap: it looks at the folders once a second.
    """

    def __init__(self, title: str, runs: Sequence[Run], metric: str, stream: TextIO | None = None) -> None:
        self._title, self._runs, self._metric = title, runs, metric
        self._stream = sys.stderr if stream is None else stream
        self._states: dict[str, Progress] = {}
        self._looked, self._began, self._live = -float("inf"), time.monotonic(), None
        self._first_done: int | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty() and os.environ.get("TERM", "") not in _NO_TABLE:
            self._live = _live(self._stream)
        return self

    def __exit__(self, *exception: object) -> None:
        self._look(())
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None

    def update(self, running: Collection[str]) -> None:
        """Shows the states; `running` are the names of the folders of the runs that have a process."""
        if time.monotonic() - self._looked < _READ_SECONDS:
            return
        self._look(running)
        if self._live is not None:
            self._live.update(self._table())

    def _look(self, running: Collection[str]) -> None:
        before, self._looked = self._states, time.monotonic()
        self._states = {
            run.label: before[run.label]
            if run.label in before and before[run.label].state == "finished"
            else progress_of(run, self._metric, alive=run.label in running)
            for run in self._runs
        }
        if self._first_done is None:
            self._first_done = self._done()
        for label, now in self._states.items() if self._live is None else ():
            if now.state != "waiting" and (label not in before or before[label].state != now.state):
                words = f"{label}: {self._words(now)}  ({self._position()})"
                print(escape_unprintable(words), file=self._stream, flush=True)

    def _done(self) -> int:
        return sum(state.state == "finished" for state in self._states.values())

    def _position(self) -> str:
        """How many runs are finished, and the time that the rest will take, at the speed so far."""
        done, text = self._done(), f"{self._done()} of {len(self._runs)} finished"
        share = [1.0 if s.state == "finished" else s.step / s.total for s in self._states.values()]
        fresh = sum(share) - (self._first_done or 0)
        left = len(share) - sum(share)
        if fresh > 0.02 and left > 0.02 and done < len(self._runs):
            text += f", about {format_duration((time.monotonic() - self._began) * left / fresh)} left"
        return text

    def _words(self, state: Progress) -> str:
        value = "" if state.value is None else f"{self._metric} {format_fixed(state.value)}"
        if state.state == "finished":
            return f"finished, {value}"
        parts = [state.state, f"step {state.step:,} of {state.total:,}", value, (state.reason or "").split("\n")[0]]
        return ", ".join(part for part in parts if part)

    def _cell(self, state: Progress) -> str:
        value = "" if state.value is None else format_fixed(state.value)
        if state.state == "finished":
            return value
        mark = f"{state.step:,}/{state.total:,}" if state.state == "running" else _MARKS[state.state]
        return f"{mark} {value}".strip()

    def _table(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        seeds = list(dict.fromkeys(run.seed for run in self._runs))
        if len({(run.variant, run.seed) for run in self._runs}) == len(self._runs):
            rows, columns = list(dict.fromkeys(run.variant for run in self._runs)), [f"seed {seed}" for seed in seeds]
            labels = {(run.variant, f"seed {run.seed}"): run.label for run in self._runs}
        else:  # a search: several runs of a variant have one seed
            rows, columns = [run.label for run in self._runs], [self._metric]
            labels = {(run.label, self._metric): run.label for run in self._runs}
        table = Table(box=None, pad_edge=False)
        for name in ("", *columns):
            table.add_column(Text(name), justify="left" if not name else "right", no_wrap=True)
        styles = {"running": "bold", "failed": "red", "finished": "green"}
        for row in rows:
            states = [self._states.get(labels.get((row, column), "")) for column in columns]
            cells = [Text("", "") if s is None else Text(self._cell(s), styles.get(s.state, "")) for s in states]
            table.add_row(Text(escape_unprintable(row)), *cells)
        return Group(Text(f"{self._title}: {self._position()}"), table)


def _live(stream: TextIO) -> Any:
    """A rich display that draws four times a second at most."""
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(file=stream, highlight=False), refresh_per_second=4, vertical_overflow="visible")
    live.start()
    return live
