"""The instrument `neurons`: the texts at which the entries of a tap are largest."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.choice import layer_in
from train.inspection.features.pages.effects import effects
from train.inspection.features.pages.features import MOST_UNITS, check_units, opened, result_of
from train.inspection.features.pages.top_texts import collect
from train.inspection.features.training.measures import Evaluation
from train.inspection.features.training.settings import Autoencoder
from train.inspection.result import Result
from train.inspection.stream.parts import written
from train.inspection.subject import Subject, layers_with
from train.inspection.weights import of_layer
from train.run.loading import LoadedRun


def inspect(
    run: LoadedRun,
    *,
    tap: str = "ffn_hidden",
    layer: int | None = None,
    units: Sequence[int] | None = None,
    batches: int = 16,
    examples: int = 10,
    seed: int = 0,
) -> Result:
    """Top texts of neurons, and for those of a feed-forward the logits of what they write.

    Args:
      run: the model.
      tap: the tap whose entries are the neurons.
      layer: the layer; None for the last that has the tap, and for a tap outside of the layers.
      units: the numbers of the neurons; None for some, drawn at random.
      batches: batches of the validation split to read.
      examples: texts of each neuron.
      seed: draws the neurons.
    """
    model, subject = run.experiment.model, Subject.of(run)
    having = layers_with(model, tap)
    if layer is None:
        layer = max(having, default=None)
    else:
        layer = layer_in(model, layer)
    settings, stream = opened(run, Autoencoder(name="read", tap=tap, layer=layer), batches)
    site = stream.sites[0]
    width, notes = stream.widths[site], []
    if units is not None:
        chosen = check_units(units, width, "neuron")
    else:
        count = min(MOST_UNITS, width)
        chosen = sorted(int(n) for n in np.random.default_rng(seed).choice(width, count, replace=False))
        if count < width:
            notes.append(f"A sample: {count} of {width:,} neurons, drawn at random.")
    index = jnp.asarray(chosen)
    compiled = jax.jit(lambda params, batch: stream.activations(params, batch)[site][..., index])
    batches_read = Evaluation(stream, settings).batches
    collected = collect(
        batches_read, lambda batch: compiled(run.params, stream.to_devices(batch)), chosen, examples, skip=0
    )
    logits_UV = logits_of(subject, site.tap, site.layer, chosen)
    return result_of(run, collected, logits_UV, f"Neurons of {site.text}", site, "neuron", notes)


def logits_of(subject: Subject, tap: str, layer: int | None, chosen: list[int]) -> np.ndarray | None:
    """The logits (units, V) of the neurons' own outputs; None where a neuron writes no one vector to the stream."""
    if tap != "ffn_hidden" or layer is None or not subject.config.residual.one_vector:
        return None
    shapes = jax.eval_shape(lambda params: of_layer(subject.config, params, layer), subject.params)
    down = shapes.get("ffn", {}).get("down")
    if getattr(down, "ndim", 0) != 2 or down.shape[1] != subject.config.width:
        return None

    def found(params: Any, index: jax.Array) -> jax.Array:
        of_this = of_layer(subject.config, params, layer)

        def write(row_D: jax.Array) -> jax.Array:
            """The direction that a row adds to the stream: a norm and a gain after the feed-forward turn it."""
            return written(subject.config, of_this.get("residual", {}), "ffn", row_D)[0](row_D)

        rows_UD = of_this["ffn"]["down"][index].astype(jnp.float32)
        return effects(subject.config, params, jax.vmap(write)(rows_UD), subject.layout)

    logits_UV: np.ndarray = subject.compiled(found)(np.asarray(chosen, np.int32))
    return logits_UV
