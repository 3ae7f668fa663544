"""The folder of trained autoencoders, which explains itself.

features.json       the options            source.json     the model: its run, step and fingerprint
metrics.jsonl       measures of steps      status.json     whether it is finished
sessions/, ...      environment, as in a run folder
checkpoints/STEP/   the whole state, to go on from
autoencoders/NAME/  cfg.json, sae_weights.safetensors: SAELens' format
densities.npz       how often each feature fires
page.html           curves and measures
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.options.difference import differences
from model.options.json import from_json, to_json
from model.options.tree import check
from model.parameters.names import flatten, unflatten
from train.checkpoints.checksums import checksums
from train.files.files import atomic_folder, read_json, write_json
from train.inspection.features.training.settings import Features
from train.run.loading import LoadedRun

KEPT_CHECKPOINTS = 2


@dataclasses.dataclass(frozen=True)
class Source:
    """The model whose activations are read.

    Attributes:
      run: its run folder.
      step: of its checkpoint.
      fingerprint: a digest of its options and of all of its parameters, which depends on no mesh.
    """

    run: str
    step: int
    fingerprint: str

    @property
    def text(self) -> str:
        """For messages."""
        return f"{self.run}, step {self.step} (parameters {self.fingerprint[:8]})"


def source_of(run: LoadedRun) -> Source:
    """The source that a loaded run is."""
    content = {"model": to_json(run.experiment.model), "parameters": checksums(run.params)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Source(str(run.folder), run.step, digest[:32])


def require_source(found: Source, run: LoadedRun, where: pathlib.Path) -> None:
    """Raises UserError when autoencoders belong to another model than that of a run."""
    here = source_of(run)
    if here.fingerprint != found.fingerprint:
        raise UserError(
            f"{where} was trained on {found.text}, and this model is {here.text}: the features of one model mean "
            "nothing in another; give that --run and --checkpoint, or autoencoders of this one"
        )


def claim(folder: pathlib.Path, features: Features, run: LoadedRun) -> None:
    """Makes a folder, or checks that it holds the same training. Raises UserError for another one."""
    if (folder / "features.json").is_file():
        before, now = (_by_name(to_json(each)) for each in (load_settings(folder), features))
        if changed := differences(before, now):
            listed = "\n  ".join(changed)
            raise UserError(f"{folder} holds autoencoders of other options (its value -> the one given):\n  {listed}")
        require_source(load_source(folder), run, folder)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files; give an empty folder, or one of autoencoders to go on with")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "source.json", dataclasses.asdict(source_of(run)))
    write_json(folder / "features.json", to_json(features))


def _by_name(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"autoencoders": {each["name"]: each for each in options["autoencoders"]}}


def load_settings(folder: pathlib.Path) -> Features:
    """The options of a folder. Raises UserError when it is none."""
    path = folder / "features.json"
    if not path.is_file():
        raise UserError(f"{folder} is no folder of autoencoders: it has no features.json")
    features: Features = from_json(Features, read_json(path))
    check(features)
    return features


def load_source(folder: pathlib.Path) -> Source:
    """The source of a folder."""
    return Source(**read_json(folder / "source.json", schema={"run": str, "step": int, "fingerprint": str}))


# ---------------------------------------------------------------------------------------------------- checkpoints


def steps(folder: pathlib.Path) -> list[int]:
    """The steps of complete checkpoints, in order."""
    found = folder / "checkpoints"
    names = [path.name for path in found.iterdir()] if found.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def save(folder: pathlib.Path, states: Any, step: int) -> None:
    """Writes a checkpoint, atomically, and removes old ones."""
    arrays = {name: np.asarray(x) for name, x in flatten(jax.device_get(states)).items()}
    note = {"step": step, "digests": {name: _digest(x) for name, x in arrays.items()}}
    target = folder / "checkpoints" / str(step)
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as part:
        save_file(arrays, part / "state.safetensors")
        write_json(part / "note.json", note)
    for old in steps(folder)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(folder / "checkpoints" / str(old), ignore_errors=True)


def restore(folder: pathlib.Path, abstract: Any, places: Any) -> tuple[Any, int] | None:
    """The state of the latest checkpoint at its places and its step; None without one. Raises UserError for damage."""
    if not (found := steps(folder)):
        return None
    path = folder / "checkpoints" / str(found[-1])
    note = read_json(path / "note.json", remedy=f"delete {path}")
    arrays: dict[str, np.ndarray] = {}
    with contextlib.suppress(OSError, SafetensorError):
        arrays = load_file(path / "state.safetensors")
    wanted = flatten(abstract)
    for name, shape in wanted.items():
        if (
            name not in arrays
            or arrays[name].shape != shape.shape
            or _digest(arrays[name]) != note["digests"].get(name)
        ):
            raise UserError(
                f"{path} is damaged: {name} is not what was written; delete it to go on from an earlier one"
            )
    on_mesh = jax.device_put({name: arrays[name] for name in wanted}, dict(flatten(places)))
    return unflatten(abstract, on_mesh), int(note["step"])


def _digest(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:32]
