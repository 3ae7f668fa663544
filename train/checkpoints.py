"""Checkpoints: orbax, written in the background, atomic, verified when read.

A checkpoint holds the parameters, the rest of the state (step, optimizer, key, guard) and a note: the experiment, the
step, and a checksum of every array that depends neither on the mesh nor on the file format. It restores onto any mesh.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from model.errors import UserError
from model.options import differences, to_json
from train.experiment import Checkpoints, Experiment
from train.sharding import path_name
from train.state import TrainState

FORMAT = 1


class Damaged(Exception):
    """A checkpoint whose bytes are not those that were saved."""


def checksums(tree: Any) -> dict[str, jax.Array]:
    """A uint32 for every array, by dotted name: its bits, each word times an odd number that grows with its place."""

    def fold(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
        weights = jax.lax.iota(jnp.uint32, bits.size).reshape(bits.shape) * 2 + 1
        return jnp.sum(bits * weights, dtype=jnp.uint32)

    return {path_name(path): fold(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


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
        # Every save and every skipped metric is an INFO line; orbax's own errors come back as exceptions.
        logging.getLogger("absl").setLevel(logging.ERROR)
        if self.folder.is_dir() and not self.read_only:
            for left in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
                self.say(f"checkpoint {left.name.split('.')[0]} was left half-written by an interrupted save; removing it")
        self._manager = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        keep: list[Any] = [checkpoint_managers.LatestN(self.options.keep_last)]
        if self.options.keep_every is not None:
            keep.append(checkpoint_managers.EveryNSteps(self.options.keep_every))
        if self.options.keep_best:
            best = checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics["loss"],
                reverse=True,
                n=self.options.keep_best,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        manager_options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not self.read_only,
            read_only=self.read_only,
            create=not self.read_only,
        )
        return ocp.CheckpointManager(self.folder.absolute(), options=manager_options)

    def steps(self) -> list[int]:
        """The steps of complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step whose checkpoint has the lowest validation loss; None when none has one."""
        losses = {}
        for step in self.steps():
            metrics = self._manager.metrics(step)
            if metrics and metrics.get("loss") is not None:
                losses[step] = metrics["loss"]
        return min(losses, key=losses.__getitem__) if losses else None

    def save(self, experiment: Experiment, state: TrainState, step: int, loss: float | None) -> None:
        """Starts a save in the background; the arrays may be donated as soon as this returns.

        A save that fails, of this step or of the one before, is reported; the checkpoints before it are left as they are.
        """
        sums = {name: int(value) for name, value in jax.device_get(_checksums(state)).items()}
        note = {"format": FORMAT, "step": step, "experiment": to_json(experiment), "checksums": sums}
        rest = dataclasses.replace(state, params={})
        arguments = ocp.args.Composite(
            params=ocp.args.StandardSave(flat(state.params)),
            rest=ocp.args.StandardSave(flat(rest)),
            note=ocp.args.JsonSave(note),
        )
        metrics = None if loss is None else {"loss": loss}
        self._report_failure(step, lambda: self._manager.save(step, args=arguments, metrics=metrics, force=True))

    def finish(self) -> None:
        """Waits for the save under way."""
        self._report_failure(None, self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits for the save under way and lets go of the folder."""
        self.finish()
        self._manager.close()

    def _report_failure(self, step: int | None, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # what tensorstore and orbax raise on a failing disk has no common class
            which = "the last checkpoint" if step is None else f"a checkpoint (at or before step {step})"
            kept = self.steps()
            good = f"checkpoint {kept[-1]} is intact" if kept else "there is no earlier one"
            self.say(f"WARNING: {which} could not be written: {_first_line(error)}; {good}, and the run goes on")
            self._manager = self._open()

    def restore_latest(self, experiment: Experiment, shardings: TrainState, abstract: TrainState) -> TrainState | None:
        """The newest checkpoint that is whole, placed by `shardings`; None when the folder holds none.

        Damaged ones are named and passed over. Raises UserError when checkpoints exist and none can be read, and when
        they belong to another model.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, experiment, shardings, abstract)
            except Damaged as error:
                self.say(f"WARNING: checkpoint {step} in {self.folder} is damaged ({error}); trying the one before it")
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self.folder} can be read; "
                "move the folder away to start again from step 0"
            )
        return None

    def restore(self, step: int, experiment: Experiment, shardings: TrainState, abstract: TrainState) -> TrainState:
        """The whole state of one step. Raises Damaged, or UserError for another model's checkpoint."""
        note = self._note(step)
        refuse_other_model(note, experiment, self.folder / str(step))
        placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
        rest = dataclasses.replace(placed, params={})
        arrays = self._read(
            step,
            params=ocp.args.StandardRestore(flat(placed.params)),
            rest=ocp.args.StandardRestore(flat(rest)),
        )
        state = dataclasses.replace(unflat(rest, arrays["rest"]), params=unflat(placed.params, arrays["params"]))
        _verify(note, state)
        return state

    def _note(self, step: int) -> dict[str, Any]:
        note = self._read(step, note=ocp.args.JsonRestore())["note"]
        if not isinstance(note, dict) or note.get("format") != FORMAT:
            raise Damaged("its note has no known format")
        return note

    def _read(self, step: int, **items: Any) -> dict[str, Any]:
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            return {name: restored[name] for name in items}
        except Exception as error:  # what a damaged file raises depends on where the damage lies
            raise Damaged(_first_line(error)) from error


_checksums = jax.jit(checksums)


def _verify(note: dict[str, Any], state: TrainState) -> None:
    found = {name: int(value) for name, value in jax.device_get(_checksums(state)).items()}
    wrong = [name for name, value in note["checksums"].items() if found.get(name) != value]
    if wrong:
        raise Damaged(f"the checksum of {wrong[0]} is wrong" + (f", and {len(wrong) - 1} more" if wrong[1:] else ""))


def refuse_other_model(note: dict[str, Any], experiment: Experiment, where: pathlib.Path) -> None:
    """Raises UserError when a checkpoint's parameters are of another model or optimizer than the experiment's."""
    stored, given = note["experiment"], to_json(experiment)
    changed = differences(stored["model"], given["model"], "model")
    changed += differences(stored["optimizer"]["type"], given["optimizer"]["type"], "optimizer")
    changed = [line for line in changed if not line.startswith(("model.scan_layers", "model.remat"))]
    if changed:
        listed = "\n  ".join(changed)
        raise UserError(f"{where} is a checkpoint of another model (its value -> this run's):\n  {listed}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"\s+", " ", text)[:200]


