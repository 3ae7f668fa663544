"""Trackers, to which metrics go besides the run folder's files: TensorBoard events, and optionally Weights & Biases.

The files of `metrics.py` are the record; a tracker is a view of it. So a tracker that fails during a run is switched
off with a warning, and training continues.
"""

import contextlib
import html
import importlib.util
import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging

from model.errors import UserError


class Tracker(Protocol):
    """A view of the metrics of a run; every value is a number, NaN and infinities included."""

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Takes the values of one group ("train", "eval", "throughput", "statistics/blocks/3/value") at one step."""

    def text(self, name: str, step: int, text: str) -> None:
        """Takes a text under a name, such as a sample."""

    def flush(self) -> None:
        """Sends the values that it has buffered."""

    def close(self) -> None:
        """Flushes and ends; no other call follows."""


def require_installed(tensorboard: bool, wandb_project: str | None) -> None:
    """Raises UserError for a tracker whose package is missing: at the start of a run, not after its first step."""
    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "TensorBoard events need the package tensorboardX, which is not installed: pip install tensorboardX, or "
            "switch TensorBoard off in the config"
        )
    if wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"logging to the Weights & Biases project {wandb_project!r} needs the package wandb, an optional extra "
            "that is not installed: pip install wandb, or switch it off in the config"
        )


class Trackers:
    """The trackers of one session, as one tracker. A tracker that fails is switched off: it is not part of the record.

    Raises UserError when Weights & Biases does not start; TensorBoard events that cannot be written are a warning.
    """

    def __init__(
        self, run_folder: pathlib.Path, tensorboard: bool, wandb_project: str | None, purge_step: int | None
    ) -> None:
        self._active: list[Tracker] = []
        if wandb_project is not None:
            self._active.append(WeightsAndBiases(run_folder, wandb_project))
        if tensorboard:
            try:
                # Absolute, or a relative path such as gs:/runs would be taken for a bucket.
                self._active.append(TensorBoard(run_folder.absolute() / "tensorboard", purge_step))
            except Exception as error:  # its errors have no common base
                logging.warning("TensorBoard logging is off: %s", error)

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Gives every tracker the values of one group at one step."""
        self._each(lambda tracker: tracker.log(group, step, values))

    def text(self, name: str, step: int, text: str) -> None:
        """Gives every tracker a text."""
        self._each(lambda tracker: tracker.text(name, step, text))

    def flush(self) -> None:
        """Makes every tracker send the values that it has buffered."""
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Ends every tracker."""
        self._each(lambda tracker: tracker.close())

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._active):
            try:
                action(tracker)
            except Exception as error:  # no error of a library or a server may end a run
                logging.warning("%s logging is off from here on: %r", type(tracker).__name__, error)
                self._active.remove(tracker)
                with contextlib.suppress(Exception):
                    tracker.close()


class TensorBoard:
    """TensorBoard event files in a folder; one event holds all values of a group at a step.

    `purge_step` tells TensorBoard that a resumed run starts there, and that the events of an earlier session at that
    step or later are void.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int | None = None) -> None:
        # Not its SummaryWriter: that one sends every scalar through a process queue of ten entries to a thread, and
        # when the thread dies (a full disk) the training loop waits for ever for room in the queue.
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary, self._make_text = event_pb2.Event, summary_pb2.Summary, summary.text
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix keeps two sessions that start within one second from sharing a file.
        self._writer = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(self._event(step=purge_step, session_log=start))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Adds one event with the values tagged "group/name"."""
        scalars = [self._summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in values.items()]
        self._add(self._event(step=step, summary=self._summary(value=scalars)))

    def text(self, name: str, step: int, text: str) -> None:
        """Adds a text, with its line breaks."""
        indented = "\n".join("    " + line for line in text.splitlines())  # TensorBoard reads text as Markdown
        self._add(self._event(step=step, summary=self._make_text(name, indented)))

    def flush(self) -> None:
        """Writes the events out."""
        self._writer.flush()

    def close(self) -> None:
        """Writes the events out and closes the file."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run that a resumed run continues: its id is kept in RUN/wandb.json.

    Raises UserError when it cannot start: no login, no network.
    """

    def __init__(self, run_folder: pathlib.Path, project: str) -> None:
        import wandb

        identity = run_folder / "wandb.json"
        if not identity.exists():
            identity.write_text(json.dumps({"id": uuid.uuid4().hex[:12]}) + "\n", encoding="utf-8")
        config = run_folder / "config.json"
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=project,
                name=run_folder.name,
                id=json.loads(identity.read_text(encoding="utf-8"))["id"],
                resume="allow",
                dir=str(run_folder),
                config=json.loads(config.read_text(encoding="utf-8")) if config.exists() else None,
            )
        except Exception as error:  # its errors have no common base
            raise UserError(
                f"Weights & Biases did not start for the project {project!r}: {error}. Run `wandb login`, or set "
                "WANDB_MODE=offline, or switch it off in the config"
            ) from error

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Sends the values as "group/name"."""
        self._run.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def text(self, name: str, step: int, text: str) -> None:
        """Sends a text, with its line breaks."""
        # HTML, since it keeps the line breaks of a text.
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def flush(self) -> None:
        """Nothing to do: the library's own process sends the values."""

    def close(self) -> None:
        """Ends the Weights & Biases run, once everything is sent."""
        self._run.finish()
