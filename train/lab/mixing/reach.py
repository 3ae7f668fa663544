"""How far back the models of a sweep look: the gradient of a token's loss against the distance, measured on demand.

SWEEP/reach/VARIANT-seedN.json   the norms of the run's last checkpoint, by distance

Of windows of the validation split, the loss of the last target is differentiated by the embedding of the token k places
before the last input. Gradients of a recurrence shrink or grow with every token that they pass (Pascanu, Mikolov,
Bengio 2013, "On the difficulty of training recurrent neural networks"); attention reaches every token in one step.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import UserError
from train.files.files import read_json, write_json
from train.lab.results import RunResult, SweepResults

if TYPE_CHECKING:
    from train.run.loading import LoadedRun

FOLDER = "reach"
_SCHEMA = {"step": int, "windows": int, "norms": {...: float}}
_WINDOWS, _ROWS = 64, 8

Norms = dict[int, float]


def measure_reach(results: SweepResults, say: Callable[[str], None] = print) -> None:
    """Measures every finished run, and keeps its norms; a run that was measured at this step is left alone.

    Raises UserError for runs that do not predict the next token of a text, and for a run that cannot be loaded.
    """
    from train.run.loading import load_run

    runs = [run for run in results.runs() if run.state == "finished" and _kept(results, run) is None]
    for number, run in enumerate(runs, start=1):
        say(f"{run.folder.name}: how far back it looks ({number} of {len(runs)})")
        norms = gradient_norms(load_run(str(run.folder), str(run.step)))
        path = _path(results, run)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"step": run.step, "windows": _WINDOWS, "norms": {str(k): x for k, x in norms.items()}})


def gradient_norms(loaded: LoadedRun, windows: int = _WINDOWS) -> Norms:
    """The mean norm of the gradient of the loss of a window's last target, by the distance of an embedding to it.

    The distance of the last input is 0; others are powers of 2 within data.sequence_length. Windows are spread evenly
    over the validation split. Raises UserError for a model or data without next tokens of a text, and for a split that
    is shorter than a window.
    """
    import jax
    import jax.numpy as jnp

    from model.taps.request import Tap, Taps
    from model.transformer import logits, stream

    config, length = loaded.experiment.model, loaded.experiment.data.sequence_length
    _ = loaded.experiment.text
    if not config.visibility.decodes or config.encoder is not None:
        raise UserError("how far back a model looks is measured of models that predict the next token of a text alone")
    text = _validation(loaded)
    if len(text) <= length:
        raise UserError(
            f"the validation split of {loaded.folder} has {len(text):,} tokens, and a window takes {length + 1:,}"
        )
    starts = np.linspace(0, len(text) - length - 1, windows).astype(int)
    rows = np.stack([text[start : start + length + 1] for start in starts]).astype(np.int32)

    @jax.jit
    def norms(params: Any, rows_BU: jax.Array) -> jax.Array:
        def embeddings(params: Any) -> jax.Array:
            output = stream(config, params, rows_BU[:, :-1], layout=loaded.layout, taps=("embedding",))
            return output.taps["embedding"]

        def loss(change_BTD: jax.Array) -> jax.Array:
            edit = Taps(edit={Tap("embedding"): lambda x_BTD, site: x_BTD + change_BTD.astype(x_BTD.dtype)})
            output = stream(config, params, rows_BU[:, :-1], layout=loaded.layout, taps=edit)
            last_BV = logits(config, params, output.stream_BTD[:, -1:], layout=loaded.layout)[:, 0]
            log_p_BV = jax.nn.log_softmax(last_BV.astype(jnp.float32))
            return -jnp.take_along_axis(log_p_BV, rows_BU[:, -1:], axis=-1).sum()

        shape = jax.eval_shape(embeddings, params).shape
        return jnp.linalg.norm(jax.grad(loss)(jnp.zeros(shape, jnp.float32)), axis=-1)

    size = loaded.mesh.size * -(-_ROWS // loaded.mesh.size)
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    padded = [np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]) for part in parts]
    norms_BT = np.concatenate([np.asarray(norms(loaded.params, part)) for part in padded])[: len(rows)]
    distances = [0, *(2**i for i in range(math.floor(math.log2(length - 1)) + 1))] if length > 1 else [0]
    return {k: float(norms_BT[:, length - 1 - k].mean()) for k in distances}


def reach_of(results: SweepResults) -> dict[str, dict[int, tuple[float, float, float]]]:
    """By variant and distance: the mean over the seeds that were measured, the lowest and the highest."""
    found = {}
    for name, variant in results.variants.items():
        kept = [norms for run in variant.runs.values() if (norms := _kept(results, run)) is not None]
        common = set.intersection(*(set(norms) for norms in kept)) if kept else set()
        if common:
            found[name] = {
                k: (float(np.mean(values)), min(values), max(values))
                for k in sorted(common)
                for values in [[norms[k] for norms in kept]]
            }
    return found


def _validation(loaded: LoadedRun) -> np.ndarray:
    """The tokens of the validation split, one document after another."""
    parts = loaded.dataset().split("validation")
    return np.concatenate([part.tokens(i) for part in parts for i in range(part.num_documents)])


def _kept(results: SweepResults, run: RunResult) -> Norms | None:
    """The norms of a run that were kept; None if they are of another step, or cannot be read."""
    path = _path(results, run)
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = read_json(path, schema=_SCHEMA)
    except UserError:
        return None
    if content["step"] != run.step or not all(name.isdecimal() for name in content["norms"]):
        return None
    return {int(name): float(norm) for name, norm in content["norms"].items()}


def _path(results: SweepResults, run: RunResult) -> pathlib.Path:
    return results.folder / FOLDER / f"{run.folder.name}.json"
