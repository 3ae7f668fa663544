"""The numbers of a run, in its folder: written while it trains, rewound when it resumes, read back by the reports.

    metrics.jsonl      results of the training: the same bytes for the same config, however often it was killed;
                       an evaluation of a further text has its name, one without a name is of the validation split
    statistics.jsonl   the same for statistics of layers and parameters, if the config asks for them
    throughput.jsonl   timing; `includes_compilation` marks the first step of a session
    samples.txt        texts that the model wrote, in blocks headed "=== step N ==="
    status.json        whether the run is running, finished, interrupted, stopped or failed, and at which step
    tensorboard/       the same values for TensorBoard

A JSON line is an object of numbers. Floats are the shortest digits that read back to the same 64-bit value (a float32
is widened first, which is exact); JSON has no NaN and no infinities, so they are the strings "NaN", "Infinity" and
"-Infinity", which `read_metrics` turns back into floats.

A step's lines must be written and flushed before its checkpoint is committed: a resumed run rewinds the files to the
checkpoint with `truncate` and continues from there, and lines that were not yet written then are never written.
"""

import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import numpy as np

from model.errors import UserError
from train.files.files import LineFile, cannot_read, move_replacing, parse_json, replace_file, write_json
from train.files.paths import AnyPath, literal_path, local_path
from train.files.schema import violations
from train.run.trackers import Trackers, require_installed

RunState = Literal["running", "finished", "interrupted", "stopped", "failed"]
PathLike = str | os.PathLike[str]

# The order of the fields of a line. Fields that are not named here follow by name, so that the order never depends on
# the order of a dictionary that jit returned.
_ORDER = (
    "loss",
    "perplexity",
    "bits_per_byte",
    "bytes_not_restored",
    "z_loss",
    "multi_token_loss",
    "balance_loss",
    "router_z_loss",
    "grad_norm",
    "learning_rate",
    "tokens",
    "padding",
    "skipped",
)
_INDEX = {name: index for index, name in enumerate(_ORDER)}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Fields that hold text, which may be a word for NaN as well, and the kinds of the lines that others may not write.
_TEXT_FIELDS = {"kind", "name", "part", "role"}
_RESERVED_KINDS = {"train", "eval", "throughput"}
# The schemas of a line and of its other fields; see train/files/schema.py.
_LINE_SCHEMA, _VALUE_SCHEMA = {"step": int, "kind?": str}, (float, bool, type(None))
_STATISTICS = "statistics.jsonl"
_WHERE = ("part", "layer", "role")  # the fields of a line of statistics that say where its numbers were measured
_LINE_FILES, _SAMPLES = ("metrics.jsonl", "throughput.jsonl", _STATISTICS), "samples.txt"
_SAMPLE_HEADING = re.compile(r"^=== step ([0-9]{1,15}) ===$")


class MetricsWriter:
    """Appends to the metric files of one run; create it on the first process only. A context manager.

    `session` is the number of this start of the run, written with every throughput line. `wandb_project` names a
    Weights & Biases project to log to as well. Files and trackers are opened when something is first written. Raises
    UserError when a tracker's package is not installed, and when a line cannot be written (a full disk); the files then
    end with the last whole line.
    """

    def __init__(
        self,
        run_folder: PathLike,
        *,
        session: int = 1,
        tensorboard: bool = True,
        wandb_project: str | None = None,
    ) -> None:
        require_installed(tensorboard, wandb_project)
        self.folder = local_path(run_folder, "a run folder that is written")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.session = session
        self._files: dict[str, LineFile] = {}
        self._trackers: Trackers | None = None
        self._purge_step: int | None = None
        self._tensorboard, self._wandb_project = tensorboard, wandb_project

    def truncate(self, step: int) -> None:
        """Rewinds the files to a checkpoint: drops the lines of later steps, and a half-written last line.

        A file is replaced whole or not at all. Raises UserError for a damaged line that is not the last.
        """
        self.close()
        self._purge_step = step + 1
        for name in _LINE_FILES:
            path = self.folder / name
            _rewrite(path, functools.partial(_lines_until, limit=step, path=path))
        _rewrite(self.folder / _SAMPLES, functools.partial(_samples_until, limit=step))

    def rename_old_files(self) -> bool:
        """For a run that starts over: renames the existing files to NAME.old; returns whether there were any."""
        self.close()
        self._purge_step = 0
        named = (self.folder / name for name in (*_LINE_FILES, _SAMPLES))
        found = [path for path in named if path.is_file() and path.stat().st_size]
        for path in found:
            move_replacing(path, path.with_name(path.name + ".old"))
        return bool(found)

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a line of kind "train": `values` are scalars (numpy, jax or Python) after update number `step`."""
        self._metrics("train", step, values)

    def evaluation(self, step: int, values: Mapping[str, Any], name: str | None = None) -> None:
        """Writes a line of kind "eval": the same for an evaluation after update number `step`.

        `name` is the name of a further text; a line without a name is of the validation split.
        """
        self._metrics("eval", step, values, name)

    def line(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a line of metrics.jsonl of another kind, such as a hook of one's own measures.

        `values` are scalars, as those of `train`. Raises UserError for a kind and for names that the files use already.
        """
        if kind in _RESERVED_KINDS or not kind:
            raise UserError(f"a line of metrics.jsonl: the kind {kind!r} is the run's own; take another word")
        if taken := sorted(_TEXT_FIELDS & values.keys() | {"step"} & values.keys()):
            raise UserError(f"a line of kind {kind!r}: {taken[0]!r} is no name of a value; take another one")
        self._metrics(kind, step, values)

    def statistics(self, step: int, fields: Mapping[str, str | int | float | None]) -> None:
        """Writes a line of statistics.jsonl: a part, a layer, a role and their numbers, in the order given.

        Trackers get the numbers in a group such as "statistics/blocks/3/projection".
        """
        scalars = {
            name: value if isinstance(value, str) else _to_python_scalar(name, value) for name, value in fields.items()
        }
        self._line(_STATISTICS, {"step": int(step)} | scalars)
        where = [str(scalars[name]) for name in _WHERE if scalars.get(name) is not None]
        numbers = {name: value for name, value in scalars.items() if name not in _WHERE and not isinstance(value, str)}
        self._track("/".join(["statistics", *where]), step, numbers)

    def throughput(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a line of wall-clock measurements; None where a value is not known. Adds the session."""
        fields = {name: _to_python_scalar(name, value) for name, value in values.items()}
        self._line("throughput.jsonl", {"step": int(step)} | fields | {"session": self.session})
        self._track("throughput", step, fields)

    def sample(self, step: int, text: str) -> None:
        """Writes a block of samples.txt. A line of the text that looks like a heading is indented by one space."""
        lines = [" " + line if _SAMPLE_HEADING.match(line) else line for line in text.split("\n")]
        block = f"=== step {int(step)} ===\n" + "\n".join(lines).rstrip("\n") + "\n\n"
        self._file(_SAMPLES).append(block.encode("utf-8", errors="backslashreplace"))
        self._opened_trackers().text("samples", int(step), text)

    def status(self, state: RunState, step: int, *, total_steps: int | None = None, reason: str | None = None) -> None:
        """Replaces status.json with the current state of the run. `reason` is one line for a person."""
        content = {"state": state, "step": int(step), "total_steps": total_steps, "reason": reason}
        write_json(self.folder / "status.json", content)

    def flush(self) -> None:
        """Returns when everything written so far is on the disk. Call it before a checkpoint is committed."""
        for file in self._files.values():
            file.sync()
        if self._trackers is not None:
            self._trackers.flush()

    def close(self) -> None:
        """Flushes and closes; a later write opens the files again."""
        self.flush()
        for file in self._files.values():
            file.close()
        if self._trackers is not None:
            self._trackers.close()
        self._files, self._trackers = {}, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _metrics(self, kind: str, step: int, values: Mapping[str, Any], text_name: str | None = None) -> None:
        names = sorted(values, key=lambda name: (_INDEX.get(name, len(_INDEX)), name))
        fields = {name: _to_python_scalar(name, values[name]) for name in names}
        head = {"kind": kind, "step": int(step)} | ({} if text_name is None else {"name": text_name})
        self._line("metrics.jsonl", head | fields)
        self._track(kind if text_name is None else f"{kind}/{text_name}", step, fields)

    def _line(self, name: str, fields: Mapping[str, Any]) -> None:
        written = {key: finite_or_word(value) for key, value in fields.items()}
        self._file(name).append((json.dumps(written, allow_nan=False) + "\n").encode())

    def _file(self, name: str) -> LineFile:
        if name not in self._files:
            self._files[name] = LineFile(self.folder / name)
        return self._files[name]

    def _track(self, group: str, step: int, fields: Mapping[str, Any]) -> None:
        values = {name: float(value) for name, value in fields.items() if value is not None}
        self._opened_trackers().log(group, int(step), values)

    def _opened_trackers(self) -> Trackers:
        if self._trackers is None:
            self._trackers = Trackers(self.folder, self._tensorboard, self._wandb_project, self._purge_step)
        return self._trackers


class NoMetrics(MetricsWriter):
    """The same for a process that is not the first: it writes nothing."""

    def truncate(self, step: int) -> None:
        """Does nothing."""

    def rename_old_files(self) -> bool:
        """Does nothing."""
        return False

    def sample(self, step: int, text: str) -> None:
        """Does nothing."""

    def status(self, state: RunState, step: int, *, total_steps: int | None = None, reason: str | None = None) -> None:
        """Does nothing."""

    def _line(self, name: str, fields: Mapping[str, Any]) -> None:
        pass

    def _track(self, group: str, step: int, fields: Mapping[str, Any]) -> None:
        pass


def with_words(value: Any) -> Any:
    """A tree of JSON values with `finite_or_word` of every float."""
    if isinstance(value, Mapping):
        return {name: with_words(item) for name, item in value.items()}
    return [with_words(item) for item in value] if isinstance(value, list | tuple) else finite_or_word(value)


# ------------------------------------------------------------------------------------------------------ reading


def read_metrics(run_folder: PathLike) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order, NaN and infinities as floats; empty when there is no file.

    A half-written last line is left out, so a run that is still going can be read. Raises UserError for any other
    damaged line, naming it.
    """
    return read_lines(literal_path(run_folder) / "metrics.jsonl")


def read_throughput(run_folder: PathLike) -> list[dict[str, Any]]:
    """The lines of throughput.jsonl, as `read_metrics` reads."""
    return read_lines(literal_path(run_folder) / "throughput.jsonl")


def read_statistics(run_folder: PathLike) -> list[dict[str, Any]]:
    """The lines of statistics.jsonl, as `read_metrics` reads."""
    return read_lines(literal_path(run_folder) / _STATISTICS)


def read_samples(run_folder: PathLike) -> list[tuple[int, str]]:
    """The blocks of samples.txt: (step, text), in order."""
    path = literal_path(run_folder) / "samples.txt"
    blocks: list[tuple[int, list[str]]] = []
    for line in _content(path).decode("utf-8", errors="replace").split("\n"):
        heading = _SAMPLE_HEADING.match(line)
        if heading:
            blocks.append((int(heading[1]), []))
        elif blocks:
            blocks[-1][1].append(line)
    return [(step, "\n".join(lines).rstrip("\n")) for step, lines in blocks]


def read_status(run_folder: PathLike) -> dict[str, Any] | None:
    """The content of status.json, None when there is none or it is damaged. Raises UserError when it cannot be read."""
    path = literal_path(run_folder) / "status.json"
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    return content if isinstance(content, dict) else None


def read_lines(path: AnyPath) -> list[dict[str, Any]]:
    """The lines of a file in order, as `read_metrics` reads them."""
    objects = []
    for line_number, line in enumerate(_complete_lines(_content(path)), start=1):
        fields = _parse(line, line_number, path)
        objects.append({key: v if key in _TEXT_FIELDS else _number(v) for key, v in fields.items()})
    return objects


def _number(value: Any) -> Any:
    """A value of a line, the words for NaN and infinities as floats."""
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _content(path: AnyPath) -> bytes:
    """The bytes of a file, none when there is no file. Raises UserError when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise cannot_read(path, error) from error


def _complete_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]  # the part after the last line break is a line that was being written


def _parse(line: bytes, line_number: int, path: AnyPath) -> dict[str, Any]:
    try:
        fields = json.loads(line)
        if not any(True for _ in violations(fields, _LINE_SCHEMA)) and all(map(_is_value, fields.items())):
            return dict(fields)
    except (ValueError, RecursionError):
        pass
    raise UserError(
        f"{path}, line {line_number}: expected a JSON object with a whole number 'step' and numbers beside it, got "
        f"{line[:80]!r}; the file is damaged: restore it from a copy, or move it away to continue without the numbers "
        "so far"
    )


def _is_value(field: tuple[str, Any]) -> bool:
    """Whether a field of a line is a number, a word for NaN or an infinity, or a text that is not a known metric."""
    name, value = field
    if isinstance(value, str):
        return name not in _INDEX or value in _NOT_FINITE
    return not any(True for _ in violations(value, _VALUE_SCHEMA))


# ------------------------------------------------------------------------------------------- writing and rewinding


def _to_python_scalar(name: str, value: Any) -> bool | int | float | None:
    """A scalar of any library as a Python number. Raises ValueError for an array of more than one element."""
    if value is None or type(value) in (bool, int, float):
        return value
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"the metric {name!r} must be a scalar, got an array of shape {array.shape}")
    scalar = array.reshape(())
    if scalar.dtype.kind == "b":
        return bool(scalar)
    return int(scalar) if scalar.dtype.kind in "iu" else float(scalar)


def finite_or_word(value: Any) -> Any:
    """A value as JSON: the words "NaN", "Infinity" and "-Infinity" for floats that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _lines_until(data: bytes, limit: int, path: pathlib.Path) -> bytes:
    lines = enumerate(_complete_lines(data), start=1)
    return b"".join(line + b"\n" for n, line in lines if _parse(line, n, path)["step"] <= limit)


def _samples_until(data: bytes, limit: int) -> bytes:
    lines: list[bytes] = []
    for line in _complete_lines(data):
        heading = _SAMPLE_HEADING.match(line.decode("utf-8", errors="replace"))
        if heading and int(heading[1]) > limit:
            break
        lines.append(line + b"\n")
    return b"".join(lines)


def _rewrite(path: pathlib.Path, select: Callable[[bytes], bytes]) -> None:
    data = _content(path)
    rest = select(data)
    if rest != data:
        replace_file(path, rest)
