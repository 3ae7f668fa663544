"""Activations of a model, shuffled: batch n is a pure function of the run, of the options and of n.

The run's own data pipeline feeds the model. A block of batches is run and its activations are held in a buffer on the
devices; a seeded permutation orders its tokens; the updates take them in that order. Nothing is written to a disk. To
begin at update n, the block of n is run again.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.options.words import nearest
from model.taps.meanings import TAPS
from model.taps.request import Tap
from model.transformer import abstract_params, stream
from train.data.batches.rows import Batch
from train.inspection.features.training.settings import Features, Site
from train.inspection.subject import Subject
from train.parallel import feed
from train.run.loading import LoadedRun

FIELDS = ("tokens", "positions", "segment_ids")


class TokenBatch(NamedTuple):
    """The activations of one update.

    Attributes:
      activations: (B, D) by site.
      weights_B: 1 for a token, 0 for padding.
    """

    activations: dict[Site, jax.Array]
    weights_B: jax.Array


class Block(NamedTuple):
    """A full buffer.

    Attributes:
      activations: (K, R, D) by site: K batches of R tokens.
      weights_KR: 1 for a token, 0 for padding.
      order: a permutation of the K R tokens.
    """

    activations: dict[Site, jax.Array]
    weights_KR: jax.Array
    order: jax.Array


def sites_of(features: Features, num_layers: int) -> tuple[Site, ...]:
    """The places that the autoencoders read and write, each once."""
    return tuple(dict.fromkeys(site for each in features.autoencoders for site in each.sites(num_layers)))


def taps_of(sites: tuple[Site, ...]) -> tuple[Tap, ...]:
    """One tap for each name, of all of its layers. Raises UserError for a tap that cannot be read as vectors."""
    for site in sites:
        if site.tap not in TAPS:
            raise UserError(f"no tap is called {site.tap!r}; {nearest(site.tap, TAPS)}")
        meaning = TAPS[site.tap]
        if not meaning.axes.startswith("BT") or not meaning.editable or site.tap == "experts_chosen":
            usable = ", ".join(name for name, m in TAPS.items() if m.axes.startswith("BT") and m.editable)
            raise UserError(
                f"tap {site.tap!r} has no vector for each token that the model computes with; taps that have one: "
                f"{usable}"
            )
    layers: dict[str, list[int | None]] = {}
    for site in sites:
        layers.setdefault(site.tap, []).append(site.layer)
    found = []
    for name, numbers in layers.items():
        inside = tuple(sorted(number for number in numbers if number is not None))
        found.append(Tap(name, inside or None))
    return tuple(found)


def activations_at(taps: dict[str, jax.Array], sites: tuple[Site, ...]) -> dict[Site, jax.Array]:
    """The kept taps as vectors of tokens, (B, T, D) by site; several heads are one vector."""
    found = {}
    for site in sites:
        x = taps[site.tap]
        if site.layer is not None:
            layers = sorted(other.layer for other in sites if other.tap == site.tap and other.layer is not None)
            x = x[layers.index(site.layer)]
        found[site] = x.reshape(*x.shape[:2], -1)
    return found


def model_inputs(batch: dict[str, jax.Array], with_segments: bool) -> dict[str, Any]:
    """The arguments of `model.transformer.stream` from a batch on the devices."""
    documents = {"positions_BT": batch["positions"], "segment_ids_BT": batch["segment_ids"]} if with_segments else {}
    return {"tokens_BT": batch["tokens"], "consecutive_positions": True, **documents}


class ActivationStream:
    """The stream of a run's activations.

    Attributes:
      sites: the places that are read.
      widths: the width of the activation at each site.
      batches_per_block: K, the batches of the run in a buffer.
      steps_per_block: the updates that a buffer serves.
    """

    def __init__(self, run: LoadedRun, features: Features) -> None:
        """Opens the data. Raises UserError for taps and layers that the model does not have, and for small buffers."""
        Subject.of(run)  # refuses what offers no taps
        self.run, self.features = run, features
        self.sites = sites_of(features, run.experiment.model.num_layers)
        self.taps = taps_of(self.sites)
        # All batches have one size: the first updates need no small ones.
        self.data = dataclasses.replace(run.experiment.data, **_without_ramp(run.experiment.data))
        self.with_segments = feed.needs_segments(self.data, run.experiment.model)
        self._placement = run.layout.placement(("batch", "sequence"))
        self._batches = self.data.training_batches(run.dataset(), FIELDS)
        shape = (self.data.batch_size, self.data.sequence_length)
        self.tokens_per_batch = shape[0] * shape[1]
        self.batches_per_block = max(1, features.buffer_tokens // self.tokens_per_batch)
        self.steps_per_block = self.batches_per_block * self.tokens_per_batch // features.batch_tokens
        if not self.steps_per_block:
            raise UserError(
                f"batch_tokens: {features.batch_tokens} is more than the {self.batches_per_block} batches of "
                f"{self.tokens_per_batch} tokens of the run in the buffer; give fewer, or a larger buffer_tokens"
            )
        self._shapes = self._abstract_activations(shape)
        self.widths = {site: x.shape[-1] for site, x in self._shapes.items()}

    def _abstract_activations(self, shape: tuple[int, int]) -> dict[Site, jax.ShapeDtypeStruct]:
        ids = jax.ShapeDtypeStruct(shape, jnp.int32)
        batch = dict.fromkeys(FIELDS, ids)
        params = abstract_params(self.run.experiment.model)
        found: dict[Site, jax.ShapeDtypeStruct] = jax.eval_shape(self.activations, params, batch)
        return found

    def activations(self, params: Any, batch: dict[str, jax.Array]) -> dict[Site, jax.Array]:
        """The activations of a batch, (B, T, D) by site; to be traced."""
        inputs = model_inputs(batch, self.with_segments)
        output = stream(self.run.experiment.model, params, **inputs, layout=self.run.layout, taps=self.taps)
        return activations_at(output.taps, self.sites)

    @functools.cached_property
    def _fill(self) -> Any:
        layout, skipped = self.run.layout, self.features.skip_positions

        def fill(params: Any, buffers: Any, weights_KR: Any, batch: dict[str, jax.Array], k: Any) -> Any:
            found = self.activations(params, batch)
            into = {}
            for site, buffer in buffers.items():
                rows = layout.constrain(found[site].reshape(1, self.tokens_per_batch, -1), (None, "batch", None))
                into[site] = jax.lax.dynamic_update_slice(buffer, rows.astype(buffer.dtype), (k, 0, 0))
            real = (batch["segment_ids"] > 0) & (batch["positions"] >= skipped)
            rows = real.reshape(1, -1).astype(jnp.float32)
            return into, jax.lax.dynamic_update_slice(weights_KR, rows, (k, 0))

        return jax.jit(fill, donate_argnums=(1, 2))

    def block(self, number: int) -> Block:
        """A full buffer: the batches K number, K number + 1, ... of the run."""
        layout, count = self.run.layout, self.batches_per_block
        place = layout.placement((None, "batch", None))
        buffers = {
            site: jnp.zeros((count, self.tokens_per_batch, self.widths[site]), x.dtype, device=place)
            for site, x in self._shapes.items()
        }
        weights_KR = jnp.zeros((count, self.tokens_per_batch), jnp.float32, device=layout.placement((None, "batch")))
        for k, batch in enumerate(self._batches_on_devices(number * count, count)):
            buffers, weights_KR = self._fill(self.run.params, buffers, weights_KR, batch, k)
        key = jax.random.fold_in(jax.random.key(self.features.seed), number)
        order = _permutation(key, count * self.tokens_per_batch)
        return Block(buffers, weights_KR, order)

    def _batches_on_devices(self, first: int, count: int) -> Iterator[dict[str, jax.Array]]:
        rows = functools.partial(feed.local_rows, self._placement)
        for batch in self._batches.iterator(first, rows, first + count):
            yield self.to_devices(batch)

    def to_devices(self, batch: Batch) -> dict[str, jax.Array]:
        """A batch of the host on the mesh, always with its positions and segments."""
        return feed.to_devices(batch, self._placement, self.data.batch_size, with_segments=True)


def take(block: Block, first: jax.Array, count: int) -> TokenBatch:
    """Tokens first, first + 1, ... of a block in its order; to be traced."""
    chosen = jax.lax.dynamic_slice(block.order, (first,), (count,))
    row, column = chosen // block.weights_KR.shape[1], chosen % block.weights_KR.shape[1]
    found = {site: x[row, column] for site, x in block.activations.items()}
    return TokenBatch(found, block.weights_KR[row, column])


@functools.partial(jax.jit, static_argnums=1)
def _permutation(key: jax.Array, count: int) -> jax.Array:
    return jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))


def _without_ramp(data: Any) -> dict[str, Any]:
    return {"ramp": None} if any(field.name == "ramp" for field in dataclasses.fields(data)) else {}
