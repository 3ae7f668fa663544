"""Sources in an engine, for models with an encoder: every row has pages of its own for the keys of one source.

When a request gets a row, the encoder reads its source, and cross-attention of all layers keeps keys and values of it
until another request has the row. A source is read alone, by a program that depends on its length only, so that its
keys and values are the same bits whatever runs beside it, and again after its request gave way. Texts with equal
sources share pages of the target as other texts do (`Sequence.digest`).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from model.attention.paged_cache import SCALE, PagedCache
from model.config import ModelConfig
from model.encoder.cache import DecoderLayerCache, PagedSourceCache
from model.encoder.source import Source
from model.errors import UserError
from model.inference.engine.options import EngineOptions
from model.inference.prompts import check_ids
from model.inference.request import Request
from model.inference.sources import refuse_lengths, slots_of
from model.layout import Layout
from model.stack import empty_caches
from model.transformer import Params, stream

PAGE = 128  # tokens of a page of a source: a block of model/kernels/xla/pages.py
NAME = "source."  # begins the names of the arrays of sources, and the number of the layer ends them


@dataclasses.dataclass(frozen=True)
class SourcePlan:
    """The arrays of the sources of an engine.

    Attributes:
      rows: those of the engine.
      longest: the most tokens of a source.
      layers: the numbers of the layers that attend to it.
      heads: K, the key heads of a layer.
      widths: of keys and of values in a head.
      stored: the dtype of keys and values.
      dtype: that of products; if it is not `stored`, there are scales beside keys and values.
    """

    rows: int
    longest: int
    layers: tuple[str, ...]
    heads: int
    widths: tuple[int, int]
    stored: str
    dtype: str

    @property
    def page_size(self) -> int:
        """The tokens of a page."""
        return min(PAGE, self.longest)

    @property
    def pages_of_row(self) -> int:
        """The pages of one source."""
        return -(-self.longest // self.page_size)

    @property
    def row_bytes(self) -> int:
        """The bytes of one source in all layers."""
        shapes = jax.tree.leaves(dataclasses.replace(self, rows=1).shapes())
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)

    def shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Returns the shape and dtype of every array, by layer and name."""
        of_pages = self.rows * self.pages_of_row, self.heads, self.page_size
        arrays = {
            name: jax.ShapeDtypeStruct((*of_pages, width), self.stored)
            for name, width in zip("kv", self.widths, strict=True)
        }
        if self.stored != self.dtype:
            arrays |= {name + SCALE: jax.ShapeDtypeStruct((*of_pages, 1), jnp.float32) for name in "kv"}
        return {NAME + layer: arrays for layer in self.layers}

    def cache(self, arrays: dict[str, jax.Array], row_B: jax.Array, lengths_B: jax.Array) -> PagedSourceCache:
        """Returns the cache of the sources of some rows in one layer; rows past the last stand for the last."""
        first_B1 = jnp.minimum(row_B, self.rows - 1)[:, None] * self.pages_of_row
        table_BJ = first_B1 + jnp.arange(self.pages_of_row, dtype=jnp.int32)
        return PagedSourceCache(PagedCache(arrays, "kv_heads", table_BJ), lengths_B, self.dtype)

    def slots(self, length: int) -> int:
        """Returns the slots of the program that reads a source of this length."""
        return slots_of(length, self.longest)

    def all_slots(self) -> list[int]:
        """Returns the slots of all programs."""
        sizes = [self.slots(1)]
        while sizes[-1] < self.longest:
            sizes.append(self.slots(sizes[-1] + 1))
        return sizes


def plan_sources(config: ModelConfig, options: EngineOptions) -> SourcePlan | None:
    """Returns the arrays of sources; None for a model without an encoder."""
    if (encoder := config.encoder) is None:
        return None
    longest, compute = encoder.context_length, config.precision.compute
    longest = longest if options.source_tokens is None else min(longest, options.source_tokens)
    kept = jax.eval_shape(lambda: encoder.cross.empty_cache(config.width, 1, 1, compute))
    return SourcePlan(
        rows=options.rows,
        longest=longest,
        layers=tuple(map(str, range(config.num_layers))),
        heads=kept.k_BKSH.shape[1],
        widths=(kept.k_BKSH.shape[3], kept.v_BKSH.shape[3]),
        stored=options.cache_dtype or compute,
        dtype=compute,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def read_source(
    config: ModelConfig,
    layout: Layout,
    plan: SourcePlan,
    params: Params,
    state: dict[str, dict[str, jax.Array]],
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    row_B: jax.Array,
) -> dict[str, dict[str, jax.Array]]:
    """Runs the encoder on the source of a row, and writes the keys and values of all layers.

    Args:
      config, layout, plan, params, state: of the engine.
      tokens_BS: the tokens, with padding; rows after the first are there for a mesh that splits rows.
      lengths_B: the tokens of each, 0 after the first row.
      row_B: the numbers of the rows.
    """
    batch = tokens_BS.shape[0]
    empty: dict[str, Any] = dict(empty_caches(config, batch, 1, source_length=1))
    caches: dict[str, Any] = {
        layer: DecoderLayerCache(cache.mixer, plan.cache(state[NAME + layer], row_B, lengths_B))
        for layer, cache in empty.items()
    }
    output = stream(
        config,
        params,
        jnp.zeros((batch, 1), jnp.int32),
        positions_BT=jnp.zeros((batch, 1), jnp.int32),
        lengths_B=jnp.zeros(batch, jnp.int32),  # padding, which leaves the caches of mixers as they are
        cache=caches,
        source=Source.of_lengths(tokens_BS, lengths_B),
        layout=layout,
    )
    assert output.cache is not None
    after: dict[str, Any] = dict(output.cache)
    return state | {NAME + layer: cache.source.sharded(layout).pages.arrays for layer, cache in after.items()}


def refuse_other_encoders(config: ModelConfig) -> None:
    """Raises UserError for a model with an encoder that the engine does not serve."""
    refuse_lengths(config)
    if config.encoder is not None and not config.encoder.cross.reads_pages:
        name = type(config.encoder.cross).__name__
        raise UserError(
            f"the engine serves no model whose layers read a source by {name}, which reads no keys in pages; take "
            "python -m launch.generate without --output, --set=engine... and a form of the text, or "
            "encoder.cross=CrossAttention(...)"
        )


def check_source(plan: SourcePlan | None, request: Request, vocab_size: int) -> None:
    """Raises UserError for a request whose source an engine with these arrays cannot read."""
    source = request.source
    if plan is None:
        if source is not None:
            raise UserError("request.source: this model has no encoder to read it; leave it out")
        return
    if source is None:
        raise UserError(
            "request.source: this model has an encoder; give the ids that it reads. Of commands, launch.generate and "
            "launch.serve do"
        )
    check_ids("request.source:", source, vocab_size)
    if len(source) > plan.longest:
        raise UserError(
            f"the source has {len(source)} tokens, more than the {plan.longest} that the engine reads; shorten it by "
            f"{len(source) - plan.longest} tokens, raise engine.source_tokens, or take an encoder with a longer context"
        )
