"""The instrument `feature-texts`: the features of a trained autoencoder, on texts of the run."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from train.inspection.choice import layer_in
from train.inspection.features.pages.effects import effects
from train.inspection.features.pages.top_texts import Collected, collect
from train.inspection.features.pages.widget import units_widget
from train.inspection.features.training.measures import Evaluation, write
from train.inspection.features.training.sae_lens import Trained, read_autoencoder, require_fit
from train.inspection.features.training.settings import Autoencoder, Features, Site
from train.inspection.features.training.stream import ActivationStream
from train.inspection.result import Result
from train.inspection.subject import Subject
from train.run.loading import LoadedRun

MOST_UNITS = 100  # on a page
EXAMPLES = 10  # texts of a unit


def inspect(
    run: LoadedRun,
    *,
    autoencoder: str,
    tap: str | None = None,
    layer: int | None = None,
    units: Sequence[int] | None = None,
    batches: int = 16,
    skip: int = 1,
    seed: int = 0,
) -> Result:
    """Top texts, logits and activations of features.

    Args:
      run: the model.
      autoencoder: the folder with cfg.json and sae_weights.safetensors.
      tap: the tap that it reads; needed, with the layer, for files that do not say.
      layer: the layer of the tap.
      units: the numbers of the features; None for some of those that fire, drawn at random.
      batches: batches of the validation split to read.
      skip: tokens at the start of documents to leave out.
      seed: draws the features.
    """
    folder = pathlib.Path(autoencoder)
    trained = read_autoencoder(folder)
    into, out = _places(trained, run, folder, tap, layer)
    settings, stream = opened(run, Autoencoder(name="read", tap=into.tap, layer=into.layer), batches)
    if stream.widths[into] != trained.params["encoder"].shape[0]:
        raise UserError(
            f"{folder} reads activations of width {trained.params['encoder'].shape[0]}, and {into.text} of "
            f"{run.folder} has {stream.widths[into]}; give the model and the tap that it was trained on"
        )
    params = jax.tree.map(jnp.asarray, trained.params)
    read = list(Evaluation(stream, settings).batches)

    def features(model_params: Any, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return write(trained.option, params, stream.activations(model_params, batch)[into])[0]

    chosen, notes = _chosen(units, trained.option.width, _densities(run, stream, features, params, read, skip), seed)
    index = jnp.asarray(chosen)
    compiled = jax.jit(lambda p, params, batch: features(p, params, batch)[..., index])
    collected = collect(
        read, lambda batch: compiled(run.params, params, stream.to_devices(batch)), chosen, EXAMPLES, skip
    )
    logits_UV = _logits(run, out, trained.params["decoder"][chosen])
    if logits_UV is None:
        notes.append(f"{out.text} is no vector of the residual stream, so these features have no logits of their own.")
    return result_of(run, collected, logits_UV, f"Features of {folder.name}", into, "feature", notes)


def opened(run: LoadedRun, option: Autoencoder, batches: int) -> tuple[Features, ActivationStream]:
    """A stream of one activation, and the options that go with it. Raises UserError as `ActivationStream` does."""
    settings = Features(autoencoders=(option,), batch_tokens=1, buffer_tokens=1, eval_batches=batches)
    return settings, ActivationStream(run, settings)


def result_of(
    run: LoadedRun,
    collected: Collected,
    logits_UV: np.ndarray | None,
    title: str,
    site: Site,
    word: str,
    notes: Sequence[str],
) -> Result:
    """The result of a page of units."""
    numbers = [unit.number for unit in collected.units]
    density = [unit.fired / max(collected.tokens, 1) for unit in collected.units]
    largest = [unit.examples[0].largest if unit.examples else 0.0 for unit in collected.units]
    arrays = {"numbers": np.array(numbers), "density": np.array(density), "largest": np.array(largest)}
    arrays |= {} if logits_UV is None else {"logits": logits_UV}
    about = (
        f"{run.folder}, step {run.step:,} \u00b7 {site.text} \u00b7 {collected.tokens:,} tokens of the validation split"
    )
    return Result(
        title=title,
        about=about,
        numbers={"units": numbers, "density": density, "largest": largest, "tokens": collected.tokens},
        arrays=arrays,
        parts=[units_widget(collected, run.tokenizer, logits_UV, f"{word.capitalize()}s", word)],
        notes=notes,
        lines=[f"{len(numbers)} {word}s of {site.text} on {collected.tokens:,} tokens"],
    )


def check_units(units: Sequence[int], width: int, word: str) -> list[int]:
    """The numbers of units that were asked for. Raises UserError for one that is not there, and for too many."""
    for number in units:
        if not 0 <= number < width:
            raise UserError(f"--units: there is no {word} {number}; they are 0 to {width - 1}")
    if len(units) > MOST_UNITS:
        raise UserError(f"--units: {len(units)} {word}s are more than a page shows; give at most {MOST_UNITS}")
    return list(dict.fromkeys(units))


def _places(
    trained: Trained, run: LoadedRun, folder: pathlib.Path, tap: str | None, layer: int | None
) -> tuple[Site, Site]:
    own = trained.into
    if own is not None and trained.out is not None and tap in (None, own.tap) and layer is None:
        into, out = own, trained.out
    elif tap is None and own is None:
        raise UserError(f"{folder} does not say which activation it reads; give --tap and --layer")
    else:
        name = tap if tap is not None else own.tap if own is not None else ""
        layer = None if layer is None else layer_in(run.experiment.model, layer)
        into, out = Autoencoder(name="read", tap=name, layer=layer).sites(run.experiment.model.num_layers)
        out = trained.out or out
    require_fit(trained, run, folder, into, out)
    return into, out


def _densities(
    run: LoadedRun, stream: ActivationStream, features: Any, params: Any, read: list[dict[str, np.ndarray]], skip: int
) -> np.ndarray:
    """The tokens of some batches at which each feature fires."""

    def count(p: Any, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        real_BT = (batch["segment_ids"] > 0) & (batch["positions"] >= skip)
        return jnp.sum((features(p, params, batch) > 0) & real_BT[..., None], axis=(0, 1))

    compiled = jax.jit(count)
    total = np.zeros(1, np.int64)
    for batch in read:
        total = total + np.asarray(compiled(run.params, params, stream.to_devices(batch)), np.int64)
    return total


def _chosen(units: Sequence[int] | None, width: int, fired_M: np.ndarray, seed: int) -> tuple[list[int], list[str]]:
    if units is not None:
        return check_units(units, width, "feature"), []
    live = np.flatnonzero(fired_M)
    never = width - len(live)
    if len(live) <= MOST_UNITS:
        return [int(n) for n in live], [f"{never:,} of {width:,} features fire at no token here, and are left out."]
    drawn = sorted(np.random.default_rng(seed).choice(live, MOST_UNITS, replace=False))
    note = (
        f"A sample: {MOST_UNITS} of the {len(live):,} features that fire here, drawn at random; {never:,} do not fire."
    )
    return [int(n) for n in drawn], [note]


def _logits(run: LoadedRun, site: Site, directions_UO: np.ndarray) -> np.ndarray | None:
    """The logits (units, V) of directions that are added to the residual stream; None for others."""
    config = run.experiment.model
    in_stream = site.tap in ("embedding", "mixer_output", "ffn_output", "block_output")
    if not in_stream or not config.residual.one_vector or directions_UO.shape[1] != config.width:
        return None
    subject = Subject.of(run)
    found: np.ndarray = subject.compiled(lambda params, x: effects(config, params, x, subject.layout))(directions_UO)
    return found
