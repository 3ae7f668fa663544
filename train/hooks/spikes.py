"""Notes of spikes during training: RUN/spikes/STEP.json has the batch, its documents and the scalars of each.

No state is copied when a spike is found: its step ended before its loss reached the host, and its memory belongs to the
next steps by then; a copy at every step would double the memory of a run. The last checkpoint before the step is kept
instead. Batch n is a pure function of (data, seed, n), and dropout of (seed, n), so the steps from that checkpoint on
give the state before the spike again, to the bit; `launch.replay` runs them.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from model.errors import UserError
from train.data.interface import TrainingBatches
from train.files.files import read_json, write_json
from train.files.paths import AnyPath
from train.hooks.interface import Hook, Session
from train.optimizers.spikes import Height, SpikeDetector, Spikes
from train.process import hosts
from train.run.metrics import finite_or_word
from train.terminal.formatting import format_number

FOLDER = "spikes"  # in a run folder
FORMAT = 1
MAX_SPANS = 256  # spans of documents in a note; launch.data show has all of them
_SCHEMA = {"step": int, "batch": int, "scalars": dict, "heights": dict, "documents": list}


class SpikesHook(Hook):
    """Compares every step with the lines before it, when its scalars arrive, and writes a note of each spike."""

    def __init__(self, session: Session, option: Spikes, batches: TrainingBatches, replayed: list[int]) -> None:
        """Args: as for `train.hooks.of_experiment.hooks_of`, and the option."""
        self._session, self._option, self._batches, self._replayed = session, option, batches, replayed
        self._detector = SpikeDetector(option)
        self._folder = session.folder / FOLDER
        self._steps: list[int] = []

    def due(self, info: Any) -> bool:
        """Never: `fetched` does the work."""
        return False

    def resumed(self, step: int, lines: list[dict[str, Any]]) -> None:
        """See `Hook`."""
        for line in lines:
            if line.get("kind") == "train":
                self._detector.add_line(line)

    def begin(self, step: int) -> None:
        """See `Hook`. Removes the notes of steps that are done again."""
        if hosts.is_writer():
            for later in [number for number in noted_steps(self._session.folder) if number > step]:
                _path(self._session.folder, later).unlink(missing_ok=True)
        self._set_steps(hosts.from_writer(lambda: noted_steps(self._session.folder)))
        self._detector.last = max(self._steps, default=None)

    def fetched(self, step: int, scalars: Mapping[str, Any], has_line: bool) -> None:
        """See `Hook`."""
        heights = self._detector.spike_at(step, scalars)
        if has_line:
            self._detector.add_line(scalars)
        if heights is None:
            return
        self._set_steps([*self._steps, step])
        if hosts.is_writer():
            self._write(step, heights, scalars)
            self._session.say(
                f"step {step}: {describe(heights)}; python -m launch.replay --run={self._session.folder} "
                f"--step={step} does it again"
            )

    def _set_steps(self, steps: list[int]) -> None:
        self._steps = sorted(steps)[-self._option.keep :]
        self._replayed[:] = self._steps[len(self._steps) - self._option.states :]

    def _write(self, step: int, heights: Mapping[str, Height], scalars: Mapping[str, Any]) -> None:
        """Writes the note of a spike, and removes those of spikes that are not kept any more."""
        self._folder.mkdir(exist_ok=True)
        note = {
            "format": FORMAT,
            "step": step,
            "batch": step - 1,
            "scalars": {name: finite_or_word(float(value)) for name, value in sorted(scalars.items())},
            "heights": {name: _height_json(height) for name, height in heights.items()},
            "documents": self._documents(step - 1),
        }
        write_json(_path(self._session.folder, step), note)
        for old in set(noted_steps(self._session.folder)) - set(self._steps):
            _path(self._session.folder, old).unlink(missing_ok=True)

    def _documents(self, batch: int) -> list[dict[str, Any]]:
        """The spans of the first rows, at most `MAX_SPANS` of them."""
        found: list[dict[str, Any]] = []
        for row in range(self._session.experiment.data.batch_size_at(batch)):
            if len(found) >= MAX_SPANS:
                break
            for span in self._batches.documents(batch, [row], characters=0):
                columns = [span.column, span.column + span.length]
                found.append({"row": row, "columns": columns, "name": span.name, "tokens": [span.start, span.stop]})
        return found[:MAX_SPANS]


def describe(heights: Mapping[str, Height]) -> str:
    """The highest value of a spike in words."""
    name, height = max(heights.items(), key=lambda item: item[1].deviations)
    words = {"grad_norm": "gradient norm"}.get(name, name)
    if height.median is None or height.deviations == float("inf"):
        return f"{words} {format_number(height.value)}"
    times, median = format_number(height.deviations), format_number(height.median)
    return f"{words} {format_number(height.value)}, {times} deviations above its median {median}"


def describe_note(note: Mapping[str, Any]) -> str:
    """`describe`, of a note."""
    values = {name: float(note["scalars"].get(name, "nan")) for name in note["heights"]}
    numbers = {
        name: [None if height.get(key) is None else float(height[key]) for key in ("median", "deviation")]
        for name, height in note["heights"].items()
    }
    return describe({name: Height(values[name], *numbers[name]) for name in values})


def noted_steps(run: AnyPath) -> list[int]:
    """The steps of the spikes that a run folder describes, in order."""
    folder = run / FOLDER
    names = [path.name.removesuffix(".json") for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def read_note(run: AnyPath, step: int) -> dict[str, Any] | None:
    """The note of a spike; None if the run has none of this step. Raises UserError for a damaged one."""
    path = _path(run, step)
    if not path.is_file():
        return None
    note = read_json(path, "delete it; launch.replay --step works without it", _SCHEMA)
    if note.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {note.get('format')!r}, expected {FORMAT}; delete it, launch.replay works without"
        )
    return note


def _path(run: Any, step: int) -> pathlib.Path:
    path: pathlib.Path = run / FOLDER / f"{step}.json"
    return path


def _height_json(height: Height) -> dict[str, Any]:
    values = {"median": height.median, "deviation": height.deviation, "deviations": height.deviations}
    return {name: None if value is None else finite_or_word(value) for name, value in values.items()}
