"""Checkpoints: orbax, written in the background, atomic, verified when read.

A checkpoint holds the parameters, the rest of the state (step, optimizer, key, guard) and a note: the experiment, the
step, and a checksum of every array that depends neither on the mesh nor on the file format. It restores onto any mesh.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from model.errors import UserError
from model.options import differences, from_json, to_json
from train.checksums import checksums
from train.experiment import Checkpoints, Experiment
from train.sharding import path_name
from train.state import TrainState

FORMAT = 1
# Bytes of a file that arrays are written into, of all files' share of them, and of what is compressed at a time.
FILE, SHARE, PIECE = 32 << 20, 1 / 256, 4 << 20
TOGETHER = 128 << 20  # bytes of the arrays that are read at a time, or one array


class DamagedError(UserError):
    """A checkpoint whose bytes are not those that were saved."""


@dataclasses.dataclass
class LowestLosses:
    """Orbax's question which checkpoints to keep, answered: the `n` with the lowest validation loss."""

    n: int
    losses: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether each checkpoint stays; one without a loss has no claim."""
        known = [c.step for c in checkpoints if c.step in self.losses]
        best = sorted(known, key=self.losses.__getitem__)[: self.n]
        return [c.step in best for c in checkpoints]


def flat(tree: Any) -> dict[str, Any]:
    """A tree as one dict from dotted names to arrays, which is how it lies on disk."""
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def unflat(like: Any, arrays: dict[str, Any]) -> Any:
    """The inverse of `flat`, for a tree of the same structure."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [arrays[path_name(path)] for path, _ in paths])


@dataclasses.dataclass
class CheckpointStore:
    """The checkpoints of one run folder.

    Attributes:
      run: the run folder; checkpoints lie in RUN/checkpoints.
      options: what to keep.
      say: prints a line that the user should see.
      read_only: for commands that only look.
    """

    run: pathlib.Path
    options: Checkpoints
    say: Callable[[str], None] = print
    read_only: bool = False

    def __post_init__(self) -> None:
        """Opens the folder; what an interrupted save left behind is named and removed."""
        self.folder = self.run / "checkpoints"
        _quiet_orbax()
        if not self.read_only:
            for left in self._remove_half_written():
                self.say(f"checkpoint {left} was left half-written by an interrupted save; removing it")
        self._losses: dict[int, float] = {}
        self._saving: int | None = None
        self._manager = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        keep: list[Any] = [
            checkpoint_managers.LatestN(self.options.keep_last),
            LowestLosses(self.options.keep_best, self._losses),
        ]
        if self.options.keep_every is not None:
            keep.append(checkpoint_managers.EveryNSteps(self.options.keep_every))
        manager_options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=False,  # see _remove_half_written
            read_only=self.read_only,
            create=not self.read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder.absolute(), options=manager_options)
        self._losses.clear()
        for step in self.steps():
            with contextlib.suppress(DamagedError):
                self._remember(step, self._note(step).get("loss"))
        return self._manager

    def _remove_half_written(self) -> list[str]:
        """Removes what saves that did not end have left, and returns their steps.

        Writers of a save that failed may still be at it: errors of a removal that races them are no reason to fail the
        next save, as they would be in orbax's own clean-up.
        """
        found = sorted(self.folder.glob("*.orbax-checkpoint-tmp*"))
        for left in found:
            shutil.rmtree(left, ignore_errors=True)
        return [left.name.split(".")[0] for left in found]

    def _remember(self, step: int, loss: float | None) -> None:
        if loss is not None and math.isfinite(loss):
            self._losses[step] = loss

    def steps(self) -> list[int]:
        """The steps of complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step whose checkpoint has the lowest validation loss; None when none has one."""
        known = [step for step in self.steps() if step in self._losses]
        return min(known, key=self._losses.__getitem__, default=None)

    def save(self, experiment: Experiment, state: TrainState, step: int, loss: float | None) -> None:
        """Starts a save in the background; the arrays may be donated as soon as this returns.

        A save that fails, of this step or of the one before, is reported; those before it stay as they are.
        """
        self.finish()
        note = {"format": FORMAT, "step": step, "loss": loss, "experiment": to_json(experiment)}
        note |= {"checksums": checksums(state)}
        rest = dataclasses.replace(state, params={})
        arguments = ocp.args.Composite(
            params=_in_pieces(flat(state.params)),
            rest=_in_pieces(flat(rest)),
            note=ocp.args.JsonSave(note | {"digest": _digest(note)}),
        )
        self._saving = step
        self._remember(step, loss)
        self._report_failure(lambda: self._manager.save(step, args=arguments, force=True))

    def finish(self) -> None:
        """Waits for the save under way."""
        self._report_failure(self._manager.wait_until_finished)
        self._saving = None

    def close(self) -> None:
        """Waits for the save under way and lets go of the folder."""
        self.finish()
        self._manager.close()

    def _report_failure(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # what tensorstore and orbax raise on a failing disk has no common class
            failed, self._saving = self._saving, None
            with contextlib.suppress(Exception):
                self._manager.close()
            self._remove_half_written()
            self._manager = self._open()  # forgets the step that failed
            kept = self.steps()
            good = f"checkpoint {kept[-1]} is intact" if kept else "there is no earlier one"
            self.say(f"WARNING: checkpoint {failed} could not be written: {_first_line(error)}; {good}")

    def restore_latest(self, experiment: Experiment, shardings: TrainState, abstract: TrainState) -> TrainState | None:
        """The newest checkpoint that is whole, placed by `shardings`; None when the folder holds none.

        Damaged ones are named and passed over. Raises UserError when checkpoints exist and none can be read, and when
        they belong to another model.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, experiment, shardings, abstract)
            except DamagedError as error:
                self.say(f"WARNING: {error}; trying the one before it")
                damaged.append(step)
            else:
                self._put_aside(damaged)
                return state
        if damaged:
            raise UserError(
                f"none of the checkpoints {damaged[::-1]} in {self.folder} can be read; "
                "move the folder away to start again from step 0"
            )
        return None

    def _put_aside(self, damaged: list[int]) -> None:
        """Moves damaged checkpoints to RUN/damaged, so that the run can save those steps again."""
        if not damaged or self.read_only:
            return
        self._manager.close()
        for step in damaged:
            target = self.run / "damaged" / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            os.replace(self.folder / str(step), target)
            self.say(f"checkpoint {step} was moved to {target}")
        self._manager = self._open()

    def restore(self, step: int, experiment: Experiment, shardings: TrainState, abstract: TrainState) -> TrainState:
        """The state of one step, as far as `abstract` has it: without `opt_state` a run can be evaluated.

        Raises DamagedError, or another UserError for another model's checkpoint.
        """
        note = self._note(step)
        refuse_other_model(note, experiment, self.folder / str(step))
        placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
        self._refuse_other_arrays(step, note["checksums"], placed)
        rest = dataclasses.replace(placed, params={})
        params = unflat(placed.params, self._read_arrays(step, "params", flat(placed.params)))
        state = dataclasses.replace(unflat(rest, self._read_arrays(step, "rest", flat(rest))), params=params)
        found = checksums(state)
        wrong = [name for name, value in found.items() if note["checksums"][name] != value]
        if wrong:
            more = f", and {len(wrong) - 1} more" if wrong[1:] else ""
            raise self._damaged(step, f"the checksum of {wrong[0]} is wrong{more}")
        return state

    def _refuse_other_arrays(self, step: int, stored: Collection[str], state: TrainState) -> None:
        """Raises DamagedError when a checkpoint lacks an array of the state, or has one that the state lacks."""
        wanted = flat(state)
        left_out = "opt_state." if not jax.tree.leaves(state.opt_state) else None
        for name in sorted(wanted.keys() ^ set(stored)):
            if name in wanted:
                raise self._damaged(step, f"it has no {name}")
            if left_out is None or not name.startswith(left_out):
                raise self._damaged(step, f"it has {name}, which is no part of the state")

    def _damaged(self, step: int, what: str) -> DamagedError:
        return DamagedError(f"checkpoint {step} in {self.folder} is damaged ({what})")

    def _note(self, step: int) -> dict[str, Any]:
        note = self._read(step, note=ocp.args.JsonRestore())["note"]
        if not isinstance(note, dict) or note.get("format") != FORMAT:
            raise self._damaged(step, "its note has no known format")
        if note.pop("digest", None) != _digest(note):
            raise self._damaged(step, "its note is not what was written")
        return note

    def _read_arrays(self, step: int, item: str, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """The arrays of these shapes and formats in their places; few at a time: each is there twice for a while."""
        arrays: dict[str, Any] = {}
        for some in _together(abstract):
            places = ocp.checkpoint_utils.construct_restore_args(some)
            wanted = ocp.args.PyTreeRestore(some, restore_args=places, partial_restore=True)
            arrays |= self._read(step, **{item: wanted})[item]
        return arrays

    def _read(self, step: int, **items: Any) -> dict[str, Any]:
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            return {name: restored[name] for name in items}
        except Exception as error:  # what a damaged file raises depends on where the damage lies
            raise self._damaged(step, _first_line(error)) from error


def _together(arrays: dict[str, jax.ShapeDtypeStruct]) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
    """Groups of arrays that are read at a time."""
    group: dict[str, jax.ShapeDtypeStruct] = {}
    for name, x in arrays.items():
        if group and sum(other.size * other.dtype.itemsize for other in (*group.values(), x)) > TOGETHER:
            yield group
            group = {}
        group[name] = x
    yield group


def _in_pieces(arrays: dict[str, Any]) -> ocp.args.PyTreeSave:
    """A save that has little more than a file in memory at a time: what a file is to hold is gathered before."""
    pieces = {name: ocp.SaveArgs(chunk_byte_size=PIECE) for name in arrays}
    size = max(FILE, int(SHARE * sum(x.nbytes for x in arrays.values())))
    return ocp.args.PyTreeSave(arrays, save_args=pieces, ocdbt_target_data_file_size=size)


def _digest(note: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def refuse_other_model(note: dict[str, Any], experiment: Experiment, where: pathlib.Path) -> None:
    """Raises UserError when a checkpoint's parameters are of another model or optimizer than the experiment's."""
    stored, given = note["experiment"], to_json(experiment)
    with contextlib.suppress(UserError):  # an option that has come since stands at its default
        stored = to_json(from_json(Experiment, stored))
    changed = differences(stored["model"], given["model"], "model")
    changed += differences(stored["optimizer"]["type"], given["optimizer"]["type"], "optimizer")
    changed = [line for line in changed if not line.startswith(("model.scan_layers", "model.remat"))]
    if changed:
        listed = "\n  ".join(changed)
        raise UserError(f"{where} is a checkpoint of another model (its value -> this run's):\n  {listed}")


def _quiet_orbax() -> None:
    """Leaves it to exceptions to say what goes wrong in orbax.

    It warns of every save. And when one of its readers or writers fails, it ends at once, so that each of the others
    finds nobody to tell; their warnings and tracebacks would bury the one message that counts.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_not_of_orbax)
    if sys.unraisablehook is not _not_of_late_writers:
        _hooks.append(sys.unraisablehook)
        sys.unraisablehook = _not_of_late_writers


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()


_hooks: list[Callable[[Any], Any]] = []


def _not_of_late_writers(unraisable: Any) -> None:
    closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
    code = getattr(unraisable.object, "cr_code", None)
    if not closed and not (code is not None and "orbax" in code.co_filename):
        _hooks[-1](unraisable)


def _first_line(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of errors, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return re.sub(r"\s+", " ", text)[:200]
