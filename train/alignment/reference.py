"""Log-probabilities of a reference: computed once, before training, and kept by the content that they depend on.

    DATASET/reference/KEY.npy     for each row of a split the log-probabilities of its two texts, float32 (rows, 2)
    RUN/reference.json            the keys of this run's splits, and the run whose parameters the reference has

KEY is a hash of the parameters, the model and the tokens: runs of other options on the same data share the numbers, and
a change of any of the three makes new ones. A run that continues takes those that it began with, even if the run of
the reference has been trained further since.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.layout import Layout
from model.options.json import to_json
from model.parameters.names import flatten
from train.data.preferences.batches import PreferenceBatches, PreferenceEvaluation
from train.data.preferences.option import Preferences
from train.data.shards.dataset import dataset_of_run
from train.experiment import Experiment
from train.files.files import read_json, write_array, write_json
from train.files.paths import literal_path
from train.objectives.answers import log_probabilities
from train.objectives.interface import Batch, Preparation
from train.parallel import feed
from train.parallel.table import replicated
from train.run.folder import has_begun
from train.run.loading import load_params
from train.run.pretrained import initial_state
from train.state import StateConfig, TrainState, state_shardings
from train.terminal.progress import Progress

if TYPE_CHECKING:
    from train.hooks.interface import Session

FILE, FOLDER = "reference.json", "reference"
SCHEMA = {"source": {...: object}, "keys": {...: str}}
SPLITS = ("train", "validation")


class ReferencePreparation(Preparation):
    """Adds the log-probabilities of the reference to a batch: `NAME_reference` for each text of a row, (P, T)."""

    def __init__(self, session: Session, reference: str | None) -> None:
        """Computes them, or takes those that are there.

        Args:
          session: the session of the run, whose data are preferences.
          reference: the folder of the reference's run; None for the parameters with which this run begins.

        Raises:
          UserError: for a reference that cannot be read, or has another tokenizer.
        """
        data = session.experiment.data
        assert isinstance(data, Preferences)
        self._names = names_of_reference(session.experiment)
        self._logps = reference_logps(session, reference)["train"]
        self._batches = PreferenceBatches(session.dataset, data, "train", ())
        self._placement, self._length = session.layout.placement(("batch", "sequence")), data.sequence_length

    def __call__(self, state: TrainState, batch: Batch, n: int) -> Batch:
        """See `Preparation`."""
        return {**batch, **self._on_mesh(self._logps[self._batches.numbers(n)])}

    def _on_mesh(self, logps: np.ndarray) -> Batch:
        added = fields_of_reference(logps, self._names, self._length)
        return dict(jax.device_put(added, self._placement))


def names_of_reference(experiment: Experiment) -> tuple[str, ...]:
    """The prefixes of the two texts of a row of the experiment's batches."""
    return experiment.objective.texts  # type: ignore[union-attr]


def fields_of_reference(logps: np.ndarray, texts: tuple[str, ...], length: int) -> dict[str, np.ndarray]:
    """The batch fields of log-probabilities (P, 2): each at all places of its row, (P, T)."""
    shape = (len(logps), length)
    return {f"{text}reference": np.broadcast_to(logps[:, k, None], shape) for k, text in enumerate(texts)}


def reference_logps(session: Session, reference: str | None) -> dict[str, np.ndarray]:
    """The log-probabilities of all rows of both splits, (rows, 2); see `ReferencePreparation`."""
    if (known := _known(session, reference)) is not None:
        return known
    model, params, layout = _reference(session, reference)
    of_parameters = _hash_of_parameters(model, params)
    found, keys = {}, {}
    for split in SPLITS:
        rows = _rows(session, split)
        keys[split] = _key(of_parameters, session, rows)
        path = _folder(session) / f"{keys[split]}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, _computed(session, model, params, layout, rows))
        found[split] = _read(path, rows)
    write_json(session.folder / FILE, {"source": _source(session, reference), "keys": keys})
    return found


def noted_logps(session: Session, split: str) -> np.ndarray:
    """The numbers of a split that a run began with; they are there after `reference_logps`."""
    noted = read_json(session.folder / FILE, "delete it; the numbers are computed again", SCHEMA)
    return _read(_folder(session) / f"{noted['keys'][split]}.npy", _rows(session, split))


def _known(session: Session, reference: str | None) -> dict[str, np.ndarray] | None:
    """The numbers that a run began with; None for a run that has not begun, and where they are gone."""
    path = session.folder / FILE
    if not path.is_file() or not has_begun(session.folder):
        return None
    noted = read_json(path, "delete it; the numbers are computed again", SCHEMA)
    files = {split: _folder(session) / f"{noted['keys'].get(split)}.npy" for split in SPLITS}
    if noted["source"] != _source(session, reference) or not all(file.is_file() for file in files.values()):
        return None
    return {split: _read(file, _rows(session, split)) for split, file in files.items()}


def _rows(session: Session, split: str) -> PreferenceEvaluation:
    data = session.experiment.data
    assert isinstance(data, Preferences)
    return PreferenceEvaluation(session.dataset, data, split, fields=session.experiment.objective.fields)


def _source(session: Session, reference: str | None) -> dict[str, Any]:
    """The origin of the reference's parameters."""
    training = session.experiment.training
    run = reference if reference is not None else training.init_from
    return {"run": run, "seed": None if run is not None else training.seed}


def _folder(session: Session) -> pathlib.Path:
    """The folder of the numbers: beside the tokens, where other runs find it; in the run if these are in a store."""
    dataset = session.dataset.folder
    return dataset / FOLDER if isinstance(dataset, pathlib.Path) else session.folder / FOLDER


def _reference(session: Session, reference: str | None) -> tuple[ModelConfig, Any, Layout]:
    """The model, the parameters on the mesh, and the layout of the reference."""
    experiment = session.experiment
    for name, run in (("objective.reference", reference), ("training.init_from", experiment.training.init_from)):
        if run is not None:
            _refuse_other_tokenizer(session, run, name)
    if reference is not None:
        loaded = load_params(literal_path(reference), mesh=experiment.mesh, sharding=experiment.sharding)
        if loaded.experiment.model.context_length < experiment.data.sequence_length:
            raise UserError(
                f"objective.reference={reference}: its context_length={loaded.experiment.model.context_length} is "
                f"shorter than data.sequence_length={experiment.data.sequence_length}"
            )
        return loaded.experiment.model, loaded.params, loaded.layout
    shardings = state_shardings(StateConfig.of(experiment), session.mesh, experiment.sharding)
    return experiment.model, initial_state(experiment, None, shardings).all_params, session.layout


def _refuse_other_tokenizer(session: Session, run: str, name: str) -> None:
    """Raises UserError when the tokens of the data mean something else to the run."""
    try:
        theirs = dataset_of_run(literal_path(run)).tokenizer
    except UserError:
        return  # a run whose data are gone; its vocabulary is compared by the model
    own = session.dataset.tokenizer
    if theirs.fingerprint() != own.fingerprint():
        raise UserError(
            f"{name}={run} has another tokenizer ({theirs.vocab_size:,} tokens, {type(theirs.option).__name__}) than "
            f"the data ({own.vocab_size:,} tokens, {type(own.option).__name__}): ids would mean other texts to it; "
            "prepare the data with its tokenizer (data.tokenizer=None takes that of training.init_from)"
        )


def _hash_of_parameters(model: ModelConfig, params: Any) -> str:
    content = hashlib.sha256(json.dumps(to_json(model), sort_keys=True).encode())
    for name, array in sorted(flatten(params).items()):
        content.update(name.encode())
        content.update(np.ascontiguousarray(jax.device_get(array)).tobytes())
    return content.hexdigest()


def _key(of_parameters: str, session: Session, rows: PreferenceEvaluation) -> str:
    parts = (of_parameters, rows.stored.fingerprint, names_of_reference(session.experiment), rows.data.sequence_length)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _computed(
    session: Session, model: ModelConfig, params: Any, layout: Layout, rows: PreferenceEvaluation
) -> np.ndarray:
    """The log-probabilities of all rows, float32 (rows, 2)."""
    texts, placement = names_of_reference(session.experiment), session.layout.placement(("batch", "sequence"))

    def logps(params: Any, batch: Batch) -> jax.Array:
        return log_probabilities(model, params, batch, texts, dropout_key=None, layout=layout).logp

    compiled = jax.jit(logps, out_shardings=replicated(session.mesh))
    parts, size = [], rows.data.batch_size
    title = f"reference, rows of {rows.stored.split}"
    with Progress(title, rows.stored.num_rows, enabled=session.programs.shows_progress) as progress:
        for n, batch in enumerate(rows):
            parts.append(np.asarray(compiled(params, feed.to_devices(batch, placement, size, False))))
            session.alive()
            progress.update(min((n + 1) * size, rows.stored.num_rows))
    return np.concatenate(parts)[: rows.stored.num_rows].astype(np.float32)


def _read(path: pathlib.Path, rows: PreferenceEvaluation) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}; delete it, and it is computed again") from None
    if found.shape != (rows.stored.num_rows, 2) or not np.isfinite(found).all():
        raise UserError(
            f"{path}: expected {rows.stored.num_rows:,} rows of two finite log-probabilities, got {found.shape}; the "
            "reference has diverged, or the file is damaged: delete it, and it is computed again"
        )
    return found
