"""Whether a checkpoint belongs to a model, and the names that it has for the arrays of the model's state."""

import contextlib
import hashlib
import json
from typing import Any

import jax

from model.errors import UserError
from model.options.difference import differences
from model.options.field_marks import exclude_paths, marked_fields
from model.options.json import from_json, to_json
from model.parameters.names import flatten
from train.checkpoints.carried import without_carried
from train.checkpoints.faults import damaged_error
from train.earlier import CHECKPOINT_FORMAT, EARLIER_NAMES, current_config, extra_arrays, stored_names
from train.experiment import Experiment
from train.files.paths import AnyPath
from train.state import TrainState


def digest(note: dict[str, Any]) -> str:
    """The digest that a note has of its own content."""
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def checked_note(note: Any, checkpoint: AnyPath) -> dict[str, Any]:
    """The note that was read from a checkpoint, without its digest. Raises UserError when it cannot be used."""
    if not isinstance(note, dict) or note.pop("digest", None) != digest(note):
        raise damaged_error(checkpoint, "its note is not what was written")
    if note["format"] not in EARLIER_NAMES:
        known = ", ".join(map(str, EARLIER_NAMES))
        raise other_version(checkpoint, f"its format is {note['format']}; known here: {known}")
    return note


def names_in(note: dict[str, Any], state: TrainState, checkpoint: AnyPath) -> dict[str, str]:
    """The name in a checkpoint of every array of a state.

    Args:
      note: the note of the checkpoint.
      state: the state, with an array or a shape at each leaf.
      checkpoint: its folder.

    Raises:
      UserError: when the checkpoint lacks an array of the state, or has an array that the state lacks: then another
        version of this code wrote it.
    """
    wanted, stored = flatten(state), without_carried(note["checksums"])
    names = stored_names(note["format"], wanted, stored)
    unknown = stored - set(names.values()) - extra_arrays(note["format"], names, stored)
    if not jax.tree.leaves(state.opt_state):
        unknown = {name for name in unknown if not name.startswith("opt_state.")}
    for name in sorted((wanted.keys() - names.keys()) | unknown):
        reason = f"it has no {name}" if name in wanted else f"it has {name}, which is no part of the state"
        if note["format"] != CHECKPOINT_FORMAT and name.startswith("opt_state."):
            raise UserError(
                f"checkpoint {checkpoint.name} in {checkpoint.parent} is of an earlier version of Cairn, whose "
                f"optimizer treated some parameters differently ({reason}); this run cannot continue. It can be "
                "evaluated, and another run can start from its parameters: --run=... --set "
                f"training.init_from={checkpoint.parent.parent}"
            )
        raise other_version(checkpoint, reason)
    return names


def other_version(checkpoint: AnyPath, reason: str) -> UserError:
    """The error for a checkpoint of another version of this code."""
    return UserError(
        f"checkpoint {checkpoint.name} in {checkpoint.parent} was written by another version of this code ({reason}); "
        "take the version that wrote it, which environment.json in the run folder names, or give another --run"
    )


def check_same_model(note: dict[str, Any], experiment: Experiment, checkpoint: AnyPath) -> None:
    """Raises UserError when a checkpoint's parameters belong to another model or optimizer than the experiment's."""
    stored, given = note["experiment"], to_json(experiment)
    with contextlib.suppress(UserError):  # options that were added since have their defaults
        stored = to_json(from_json(Experiment, current_config(stored)))
    changed = differences(stored["model"], given["model"], "model")
    changed += differences(stored["optimizer"]["type"], given["optimizer"]["type"], "optimizer")
    if changed := exclude_paths(changed, marked_fields(experiment.model, "execution", path="model")):
        listed = "\n  ".join(changed)
        raise UserError(f"{checkpoint} is a checkpoint of another model (its value -> this run's):\n  {listed}")
