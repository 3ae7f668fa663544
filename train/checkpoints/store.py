"""The checkpoint store: orbax writes checkpoints atomically in the background; they are verified on write and on read.

A checkpoint holds the parameters, the rest of the state (step, optimizer, key, guard) and a note: the experiment, the
step, and a checksum of every array that depends neither on the mesh nor on the file format. It restores onto any mesh.
"""

import contextlib
import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from model.errors import UserError
from model.options.json import to_json
from model.parameters.names import flatten, unflatten
from train.checkpoints.barrier import SaveBarrier, check_shares, first_cause
from train.checkpoints.carried import CARRIED, abstract_carried, described, placed
from train.checkpoints.checksums import checksums, groups_of
from train.checkpoints.contents import check_same_model, checked_note, digest, names_in
from train.checkpoints.faults import DamagedError, UnreadableError, cause_message, damaged_error, diagnose
from train.checkpoints.files import first_difference, record_digests, require_arrays, require_note
from train.checkpoints.handlers import chunked_save, handler_registry
from train.checkpoints.plain_path import PlainPath
from train.checkpoints.retention import preservation_policy
from train.checkpoints.slices import can_read, read_in_slices
from train.checkpoints.uploads import complete_steps
from train.earlier import CHECKPOINT_FORMAT
from train.experiment import Checkpoints, Experiment
from train.files.files import NOTHING_CHANGED, move_replacing
from train.files.paths import AnyPath, is_remote
from train.process import hosts
from train.state import TrainState

_TEMPORARY_SUFFIX = ".orbax-checkpoint-tmp"
READ_BYTES = 128 << 20  # bytes of the arrays that are read at a time; a larger array is read alone


@dataclasses.dataclass
class CheckpointStore:
    """The checkpoints of one run folder.

    Attributes:
      run: the run folder; its checkpoints are in RUN/checkpoints. A folder in a store can only be read.
      options: which checkpoints to keep.
      say: prints a line that the user should see.
      read_only: for commands that only read.
      compress: whether saved arrays are compressed; if not, saves take half of the time (of one process only).
      alone: for a store that one of several processes opens without the others; they all open any other store.
      replayed: steps whose last checkpoint before them is kept; the list may change, and is read at every save.
      failure: why the last save failed; None if it did not fail.
      carried: the arrays that were saved with the state that `restore_latest` returned (train/checkpoints/carried.py).

    All processes save and restore together, each its shards. The writer checks and removes files, and reports.
    """

    run: AnyPath
    options: Checkpoints
    say: Callable[[str], None] = print
    read_only: bool = False
    compress: bool = True
    alone: bool = False
    replayed: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Opens the folder; reports and removes the remains of an interrupted save.

        Raises UnreadableError when the folder, or a loss that decides the best checkpoint, cannot be read.
        """
        self.folder = self.run / "checkpoints"
        self.failure: str | None = None
        self.carried: dict[str, np.ndarray] = {}
        group = None if self.alone else hosts.group()
        self._together, self._barrier = group is not None, None if group is None else SaveBarrier(group)
        if not self.read_only and hosts.is_writer():
            self.folder.mkdir(parents=True, exist_ok=True)
            for step in self._remove_half_written():
                self.say(f"checkpoint {step} was left half-written by an interrupted save; removing it")
        self._losses: dict[int, float] = {}
        self._saving: int | None = None
        # The save in progress: the shapes of its arrays, by item and name, and its note.
        self._saving_shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        self._saving_note: dict[str, Any] = {}
        self._manager = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._together and kind is not None:  # to wait for a save would be to wait for a lost process
            return
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        manager_options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy(self.options, self._losses, self.replayed),
            cleanup_tmp_directories=False,  # see _remove_half_written
            create=not self.read_only,  # orbax's own read_only says so in two warnings each time
            enable_async_checkpointing=not self.read_only,
            # Checkpoints in gs:// were copied there, so they lack the mark that orbax gives its own writes there.
            atomicity_options=ocp.options.AtomicityOptions(allow_legacy_atomic_rename=is_remote(self.run)),
            async_options=None
            if self.read_only
            else ocp.AsyncOptions(post_finalization_callback=self._check_written, barrier_sync_fn=self._barrier),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                active_processes={jax.process_index()} if self.alone else None,
                primary_host=jax.process_index() if self.alone else 0,
            ),
        )
        self._plain_path = PlainPath(self.folder)
        found = {int(name) for name in self._list_names() if name.isdigit() and not (self.folder / name).is_file()}
        # None on a disk, where a checkpoint gets its name when it is complete.
        self._complete = complete_steps(self.folder, found, self.say) if is_remote(self.run) else None
        handlers = handler_registry(("params", "rest"), self.compress)
        self._manager = ocp.CheckpointManager(self._plain_path.path, options=manager_options, handler_registry=handlers)
        if unlisted := sorted((found if self._complete is None else self._complete) - set(self.steps())):
            raise diagnose(
                self.folder / str(unlisted[0]), RuntimeError("orbax does not list it"), self._plain_path.restore_paths
            )
        self._losses.clear()
        self._loss_error: UnreadableError | None = None
        for step in self.steps():
            try:
                self._record_loss(step, self._note(step).get("loss"))
            except DamagedError:
                continue
            except UnreadableError as error:
                if not self.read_only:  # without its loss the best checkpoint might be removed
                    raise
                self._loss_error = error
        if self._together:
            hosts.require_same(f"list of checkpoints in {self.folder}", str(self.steps()), hosts.SHARED_FOLDER)
        return self._manager

    def _list_names(self) -> list[str]:
        """The names in the folder, none when there is no folder. Raises UnreadableError when it cannot be read."""
        try:
            return sorted(path.name for path in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreadableError(f"{self.folder} cannot be read: {error.strerror}; {NOTHING_CHANGED}") from error

    def _remove_half_written(self) -> list[str]:
        """Removes the remains of unfinished saves, and returns their steps.

        Writers of a failed save may still run. If a removal races them and fails, the next save must not fail for it,
        as it would with orbax's own clean-up.
        """
        remains = [self.folder / name for name in self._list_names() if _TEMPORARY_SUFFIX in name]
        for path in remains:
            shutil.rmtree(path, ignore_errors=True)
        return [path.name.split(".")[0] for path in remains]

    def _record_loss(self, step: int, loss: float | None) -> None:
        if loss is not None and math.isfinite(loss):
            self._losses[step] = loss

    def steps(self) -> list[int]:
        """The steps of complete checkpoints, in order."""
        listed = set(self._manager.all_steps())
        return sorted(listed if self._complete is None else listed & self._complete)

    def is_intact(self, step: int) -> bool | None:
        """Whether a step has a checkpoint whose files all have the bytes that were written; loads no array.

        None if a file has no recorded digest, as before November 2026: then only restoring it can tell. Raises
        UnreadableError if a file cannot be read.
        """
        if step not in self.steps():
            return False
        try:
            wrong, compared = first_difference(self.folder / str(step))
        except OSError as error:
            raise diagnose(self.folder / str(step), error, self._plain_path.restore_paths) from error
        return False if wrong is not None else compared or None

    def best_step(self) -> int | None:
        """The step whose checkpoint has the lowest validation loss; None when no checkpoint has a loss.

        Raises UnreadableError when the loss of a checkpoint cannot be read.
        """
        if self._loss_error is not None:
            raise self._loss_error
        known = [step for step in self.steps() if step in self._losses]
        return min(known, key=self._losses.__getitem__, default=None)

    def save(
        self,
        experiment: Experiment,
        state: TrainState,
        step: int,
        loss: float | None,
        carried: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Starts a save in the background; the arrays may be donated as soon as this returns.

        A failed save, of this step or of the one before, is reported; earlier checkpoints stay unchanged. A save that
        cannot be read back has failed; no older checkpoint is removed until the new one is known to be readable.
        """
        self.finish()
        links = [str(self._plain_path.is_intact())]
        if "False" in (hosts.gather(links[0]) if self._together else links):
            self._manager.close()
            self._manager = self._open()
        self.failure = None
        if self._barrier is not None:
            self._barrier.begin()
        note = {"format": CHECKPOINT_FORMAT, "step": step, "loss": loss, "experiment": to_json(experiment)}
        more = placed(carried)
        note |= {"checksums": checksums(state) | checksums(more), CARRIED: described(more)}
        self._saving_note = note | {"digest": digest(note)}
        arrays = {"params": flatten(state.params), "rest": flatten(dataclasses.replace(state, params={})) | more}
        self._saving_shapes = {item: {name: x.shape for name, x in named.items()} for item, named in arrays.items()}
        arguments = ocp.args.Composite(
            params=chunked_save(arrays["params"]),
            rest=chunked_save(arrays["rest"]),
            note=ocp.args.JsonSave(self._saving_note),
        )
        self._saving = step
        self._record_loss(step, loss)
        if not self._together:
            self._report_failure(lambda: self._manager.save(step, args=arguments, force=True))
            return
        try:
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # orbax has not begun to write; its main threads would wait for this one in vain
            cause = cause_message(error, self._plain_path.restore_paths)
            raise UserError(f"checkpoint {step} could not be begun: {cause}; {NOTHING_CHANGED}") from error

    def _check_written(self) -> None:
        """Raises MissingError unless the save in progress is complete, and records its files.

        Orbax calls it in the background of the first process, when everything is written and before the checkpoint
        gets its name. After an error the checkpoint gets no name, and the older checkpoints stay.
        """
        names = [name for name in self._list_names() if name.split(_TEMPORARY_SUFFIX)[0] == str(self._saving)]
        written = max((self._plain_path.path / name for name in names), key=lambda path: path.stat().st_mtime_ns)
        for item, shapes in self._saving_shapes.items():
            require_arrays(written / item, shapes)
        require_note(written / "note", self._saving_note)
        record_digests(written, sync=not self.compress)

    def poll(self) -> None:
        """Reports the save in progress if it has failed, without waiting; called at every step.

        Several processes would notice it at different steps: they report it together, at the next save or at the end.
        """
        if self._together:
            return
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.finish()

    def finish(self) -> None:
        """Waits for the save in progress."""
        if self._saving is not None or not self._together:
            self._report_failure(self._manager.wait_until_finished)
        self._saving = None

    def close(self) -> None:
        """Waits for the save in progress and closes the folder."""
        self.finish()
        self._manager.close()

    def _report_failure(self, action: Callable[[], Any]) -> None:
        failure = None
        try:
            action()
        except Exception as error:  # the errors of tensorstore and orbax on a failing disk have no common class
            failure = cause_message(error, self._plain_path.restore_paths)
        if self._together:
            failure = first_cause(hosts.gather(failure or ""))
        if failure is None:
            return
        failed, self._saving = self._saving, None
        with contextlib.suppress(Exception):
            self._manager.close()
        if hosts.is_writer():
            self._remove_half_written()
        if self._together:
            hosts.gather("")  # the others list the folder after this
        self._manager = self._open()  # forgets the step that failed
        steps = self.steps()
        advice = f"checkpoint {steps[-1]} is intact" if steps else "there is no earlier one"
        self.failure = failure
        self.say(f"WARNING: checkpoint {failed} could not be written: {self.failure}; {advice}")

    def restore_latest(self, experiment: Experiment, shardings: TrainState, abstract: TrainState) -> TrainState | None:
        """The state of the newest undamaged checkpoint, placed by `shardings`; None when there is no checkpoint.

        Damaged checkpoints are reported and skipped. Raises UserError when all are damaged, when one cannot be read for
        another reason, and when they belong to another model; then nothing is changed.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                if self._together:
                    check_shares(self.folder / str(step))
                state = self.restore(step, experiment, shardings, abstract)
                self.carried = self._restore_carried(step)
            except DamagedError as error:
                self.say(f"WARNING: {error}; trying the one before it")
                damaged.append(step)
            else:
                self._move_damaged(damaged)
                return state
        if damaged:
            raise UserError(
                f"none of the checkpoints {damaged[::-1]} in {self.folder} is whole; "
                "move the folder away to start again from step 0"
            )
        return None

    def _move_damaged(self, damaged: list[int]) -> None:
        """Moves damaged checkpoints to RUN/damaged, so that the run can save those steps again."""
        if not damaged or self.read_only:
            return
        self._manager.close()
        for step in damaged:
            target = self.run / "damaged" / str(step)
            if hosts.is_writer():
                move_replacing(self.folder / str(step), target)
            self.say(f"checkpoint {step} was moved to {target}")
        if self._together:
            hosts.gather("")  # the others list the folder after this
        self._manager = self._open()

    def restore(self, step: int, experiment: Experiment, shardings: TrainState, abstract: TrainState) -> TrainState:
        """The state of one step, restricted to the arrays of `abstract`: evaluation needs no `opt_state`.

        Raises DamagedError, UnreadableError, or another UserError for another model's checkpoint.
        """
        note = self._note(step)
        check_same_model(note, experiment, self.folder / str(step))
        targets = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
        names = names_in(note, targets, self.folder / str(step))
        wanted = {names[name]: leaf for name, leaf in flatten(targets).items()}
        of_params = {name: leaf for name, leaf in wanted.items() if name.startswith("params.")}  # a separate item
        params = self._read_arrays(step, "params", {name.removeprefix("params."): x for name, x in of_params.items()})
        arrays = {f"params.{name}": x for name, x in params.items()}
        arrays |= self._read_arrays(step, "rest", {name: x for name, x in wanted.items() if name not in of_params})
        state: TrainState = unflatten(targets, {name: arrays[stored] for name, stored in names.items()})
        found = checksums(state)
        wrong = [name for name, value in found.items() if note["checksums"][names[name]] != value]
        if wrong:
            more = f", and {len(wrong) - 1} more" if wrong[1:] else ""
            raise damaged_error(self.folder / str(step), f"the checksum of {wrong[0]} is wrong{more}")
        return state

    def _restore_carried(self, step: int) -> dict[str, np.ndarray]:
        """The arrays that were saved with the state of a step. Raises as `restore` does."""
        note = self._note(step)
        arrays = self._read_arrays(step, "rest", abstract_carried(note))
        if wrong := [name for name, value in checksums(arrays).items() if note["checksums"][name] != value]:
            raise damaged_error(self.folder / str(step), f"the checksum of {wrong[0]} is wrong")
        return {name.removeprefix(f"{CARRIED}."): np.asarray(x) for name, x in arrays.items()}

    def _note(self, step: int) -> dict[str, Any]:
        return checked_note(self._read(step, note=ocp.args.JsonRestore())["note"], self.folder / str(step))

    def _read_arrays(self, step: int, item: str, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Reads the arrays of these shapes and formats onto their devices, few at a time: each briefly exists twice.

        Large arrays for CPUs do not, if nothing is going to train them: see train/checkpoints/slices.py.
        """
        arrays: dict[str, Any] = {}
        if self.read_only and isinstance(self.folder, pathlib.Path):
            sliced = {name: x for name, x in abstract.items() if can_read(x)}
            with self._diagnosed(step):
                arrays |= read_in_slices(self._plain_path.path / str(step) / item, sliced)
        for group in groups_of({name: x for name, x in abstract.items() if name not in arrays}, READ_BYTES):
            restore_args = ocp.checkpoint_utils.construct_restore_args(group)
            wanted = ocp.args.PyTreeRestore(group, restore_args=restore_args, partial_restore=True)
            arrays |= self._read(step, **{item: wanted})[item]
        if empty := [name for name, x in arrays.items() if not isinstance(x, jax.Array)]:  # without its _METADATA
            raise diagnose(self.folder / str(step), ValueError(f"NOT_FOUND: orbax gave no array for {empty[0]}"))
        return arrays

    def _read(self, step: int, **items: Any) -> dict[str, Any]:
        with self._diagnosed(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            return {name: restored[name] for name in items}

    @contextlib.contextmanager
    def _diagnosed(self, step: int) -> Iterator[None]:
        """Raises the meaning of a library's error."""
        try:
            yield
        except Exception as error:  # the place of the damage in a file decides which error is raised
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
                raise  # the commands say what to do about too little memory on a device
            raise diagnose(self.folder / str(step), error, self._plain_path.restore_paths) from error
