"""Measures of trained autoencoders on a split of the run's data, and the loss of the model that computes with them.

    explained variance   1 - sum |x - y|^2 / sum |x - mean x|^2
    L0                   features that fire, the mean over tokens
    dead share           the share of features that fire at no token of the evaluation
    loss recovered       (loss with zeros - loss with y) / (loss with zeros - loss): 1 if y serves the model as x does

"With" means in place of the activation that the autoencoder writes (its target), at the tokens that
training reads.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.taps.request import Tap, Taps
from model.transformer import stream, unembedding
from model.vocabulary.cross_entropy import nll
from train.inspection.features.autoencoders.interface import Params, decode
from train.inspection.features.training.settings import Autoencoder, Features, Site
from train.inspection.features.training.state import AutoencoderState, centred, folded
from train.inspection.features.training.stream import ActivationStream, activations_at, model_inputs
from train.parallel import feed
from train.parallel.table import replicated

DENSITY_BINS = 40  # of the histogram of densities, from 1e-8 to 1 on a logarithmic scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """The measures of one autoencoder.

    Attributes:
      explained_variance, l0, dead_share: see the top of this file.
      loss: of the model, in nats per counted target.
      loss_with_output, loss_with_zeros: of the model that computes with y, and with zeros.
      loss_recovered: see the top of this file; NaN where zeros change nothing.
      density_M: the share of tokens at which each feature fires.
      tokens: the tokens of the evaluation.
    """

    explained_variance: float
    l0: float
    dead_share: float
    loss: float
    loss_with_output: float
    loss_with_zeros: float
    loss_recovered: float
    density_M: np.ndarray
    tokens: int

    def scalars(self) -> dict[str, float]:
        """The numbers for metrics.jsonl."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["density_M"], fields["tokens"]
        return fields


class _Sums(NamedTuple):
    """Sums over the tokens of a batch."""

    error: jax.Array
    square: jax.Array
    sum_O: jax.Array
    fired_M: jax.Array
    nll_output: jax.Array
    nll_zeros: jax.Array


def write(option: Autoencoder, params: Params, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The features (B, T, M) and the output (B, T, O) of the model's activations, with folded parameters."""
    x_BD = x_BTD.reshape(-1, x_BTD.shape[-1]).astype(jnp.float32)
    f_BM = option.architecture.encode(params, centred(option, params, x_BD))
    shape = x_BTD.shape[:2]
    return f_BM.reshape(*shape, -1), decode(params, f_BM).reshape(*shape, -1)


class Evaluation:
    """The evaluation of all autoencoders of a training, compiled once."""

    def __init__(self, activations: ActivationStream, features: Features, split: str = "validation") -> None:
        """Args: the open stream, the options, the split."""
        run = activations.run
        self.stream, self.features = activations, features
        self.model, self.layout = run.experiment.model, run.layout
        rows = feed.local_rows(run.layout.placement(("batch", "sequence")), activations.data.batch_size)
        self.batches = activations.data.evaluation_batches(run.dataset(), split, features.eval_batches, rows)
        self.sites = {each.name: each.sites(self.model.num_layers) for each in features.autoencoders}
        self._sums = jax.jit(self._sums_of_batch, out_shardings=replicated(run.layout.mesh))

    def __call__(self, states: dict[str, AutoencoderState]) -> dict[str, Measures]:
        """The measures by the autoencoders' names."""
        outputs = []
        for batch in self.batches:
            on_mesh = self.stream.to_devices(batch)
            outputs.append(jax.device_get(self._sums(states, self.stream.run.params, on_mesh)))
        clean, counted, tokens = (
            math.fsum(float(one[name]) for one, _ in outputs) for name in ("nll", "targets", "tokens")
        )
        found = {}
        for option in self.features.autoencoders:
            parts = [sums[option.name] for _, sums in outputs]
            total = jax.tree.map(lambda *x: np.sum(np.asarray(x, np.float64), axis=0), *parts)
            found[option.name] = _measures(total, clean, counted, tokens)
        return found

    def _nll(self, params: Any, batch: dict[str, jax.Array], edit: dict[str | Tap, Any]) -> tuple[jax.Array, Any]:
        taps = Taps(keep=() if edit else self.stream.taps, edit=edit)
        inputs = model_inputs(batch, self.stream.with_segments)
        output = stream(self.model, params, **inputs, layout=self.layout, taps=taps)
        losses_BT = nll(output.stream_BTD, unembedding(self.model, params), batch["targets"], self.layout)[0]
        return jnp.sum(losses_BT * batch["weights"]), output.taps

    def _sums_of_batch(self, states: dict[str, AutoencoderState], params: Any, batch: dict[str, jax.Array]) -> Any:
        clean, taps = self._nll(params, batch, {})
        found = activations_at(taps, self.stream.sites)
        real_BT = (batch["segment_ids"] > 0) & (batch["positions"] >= self.features.skip_positions)
        zeros: dict[Site, jax.Array] = {}
        sums = {}
        for option in self.features.autoencoders:
            into, out = self.sites[option.name]
            f_BTM, y_BTO = write(option, folded(option, states[option.name]), found[into])
            target_BTO = found[out].astype(jnp.float32)
            # Tokens that the training leaves out keep their activation.
            y_BTO = jnp.where(real_BT[..., None], y_BTO, target_BTO)
            nothing_BTO = jnp.where(real_BT[..., None], 0.0, target_BTO)
            if out not in zeros:
                zeros[out] = self._nll(params, batch, _replaced(out, nothing_BTO))[0]
            weights_BT1 = real_BT[..., None].astype(jnp.float32)
            sums[option.name] = _Sums(
                error=jnp.sum(jnp.square(y_BTO - target_BTO) * weights_BT1),
                square=jnp.sum(jnp.square(target_BTO) * weights_BT1),
                sum_O=jnp.sum(target_BTO * weights_BT1, axis=(0, 1)),
                fired_M=jnp.sum((f_BTM > 0) & real_BT[..., None], axis=(0, 1), dtype=jnp.float32),
                nll_output=self._nll(params, batch, _replaced(out, y_BTO))[0],
                nll_zeros=zeros[out],
            )
        counts = {"nll": clean, "targets": jnp.sum(batch["weights"]), "tokens": jnp.sum(real_BT, dtype=jnp.float32)}
        return counts, sums


def _replaced(site: Site, y_BTO: jax.Array) -> dict[str | Tap, Any]:
    """The edit that puts an array in the place of an activation."""
    tap = Tap(site.tap, None if site.layer is None else (site.layer,))
    return {tap: functools.partial(_put, y_BTO)}


def _put(y_BTO: jax.Array, x: jax.Array, site: Any) -> jax.Array:
    return y_BTO.reshape(x.shape).astype(x.dtype)


def _measures(total: Any, clean: float, counted: float, tokens: float) -> Measures:
    spread = float(total.square) - float(np.sum(np.square(total.sum_O))) / max(tokens, 1.0)
    gap = float(total.nll_zeros) - clean
    return Measures(
        explained_variance=1.0 - float(total.error) / max(spread, 1e-30),
        l0=float(np.sum(total.fired_M)) / max(tokens, 1.0),
        dead_share=float(np.mean(total.fired_M == 0)),
        loss=clean / max(counted, 1.0),
        loss_with_output=float(total.nll_output) / max(counted, 1.0),
        loss_with_zeros=float(total.nll_zeros) / max(counted, 1.0),
        loss_recovered=(float(total.nll_zeros) - float(total.nll_output)) / gap if gap else math.nan,
        density_M=total.fired_M / max(tokens, 1.0),
        tokens=round(tokens),
    )


def density_histogram(density_M: np.ndarray) -> tuple[list[int], int]:
    """The number of features by log10 of their density, from -8 to 0 in equal bins, and those that never fire."""
    fired = density_M[density_M > 0]
    counts, _ = np.histogram(np.log10(fired), bins=DENSITY_BINS, range=(-8.0, 0.0))
    return [int(count) for count in counts], int(np.sum(density_M == 0))
