"""The arrays that an engine keeps on the device: pages of attention layers, and a state per row of recurrent layers.

With an encoder, every row also has the keys and values of a source (sources.py).

They are planned from the options alone (`CachePlan`), so that their sizes are known before they are made.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from model.attention.cache import AttentionCache
from model.attention.paged_cache import SCALE, PagedCache
from model.config import ModelConfig
from model.encoder.cache import DecoderLayerCache
from model.inference.engine.options import EngineOptions
from model.inference.engine.scheduler import pages_of_window
from model.inference.engine.sources import NAME, SourcePlan, plan_sources
from model.inference.engine.speculation import Modules
from model.interfaces import AttentionOption
from model.kernels import needs_cleared_pages
from model.layout import Layout
from model.recurrent.memory import RecurrentState
from model.stack import LayerCaches, empty_caches

# The arrays of every layer with a cache, by its number and by name.
DeviceState = dict[str, dict[str, jax.Array]]


@struct.dataclass
class Rows:
    """The tokens that a program reads, a few of each row.

    Attributes:
      tokens_BT: the tokens; those from `count_B` on are padding.
      first_B: the position of the first token of each row.
      count_B: how many tokens are real; 0 in a row without a request.
      text_length_B: the tokens that the whole text has by now.
      state_B: the number of the row's recurrent state; past the last one in a row without a request.
      tables: of every group of layers, the pages of each row (B, J).
      source_length_B: the tokens of each row's source; None for a model without an encoder.
      later_KBT: for modules of multi-token prediction, the token k + 1 places after each; None if they are yet to come.
    """

    tokens_BT: Any
    first_B: Any
    count_B: Any
    text_length_B: Any
    state_B: Any
    tables: tuple[Any, ...]
    source_length_B: Any = None
    later_KBT: Any = None


@dataclasses.dataclass(frozen=True)
class PagedLayer:
    """A layer of attention.

    Attributes:
      group: the number of its group, whose layers share a table of pages.
      heads: the logical name of the axis of heads; see `AttentionCache`.
      shapes: the name of each array, its heads, the width of a head and its dtype.
    """

    group: int
    heads: str | None
    shapes: tuple[tuple[str, int, int, str], ...]


@dataclasses.dataclass(frozen=True)
class RecurrentLayer:
    """A layer with a recurrent state: the name of each array, its shape without the axis of rows, and its dtype."""

    shapes: tuple[tuple[str, tuple[int, ...], str], ...]


@dataclasses.dataclass(frozen=True)
class CachePlan:
    """The arrays of an engine.

    Attributes:
      rows, page_size: see `EngineOptions`.
      longest_text: the most tokens of one text that the cache can hold.
      reaches: for every group of layers, how many of the last tokens its queries see; None for all.
      num_pages: the pages of every group.
      layers: every layer with a cache, by its number; those of modules follow the layers of the model.
      modules: K, the modules of multi-token prediction that guess tokens.
      sources: the arrays of sources, which every layer reads; None for a model without an encoder.
    """

    rows: int
    page_size: int
    longest_text: int
    reaches: tuple[int | None, ...]
    num_pages: tuple[int, ...]
    layers: tuple[tuple[str, PagedLayer | RecurrentLayer], ...]
    modules: int = 0
    sources: SourcePlan | None = None

    @property
    def pages_of_text(self) -> int:
        """J: the entries of a row of a table."""
        return -(-self.longest_text // self.page_size)

    @property
    def has_states(self) -> bool:
        """Whether any layer has a recurrent state."""
        return any(isinstance(layer, RecurrentLayer) for _, layer in self.layers)

    def shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Returns the shape and dtype of every array."""
        shapes: dict[str, dict[str, jax.ShapeDtypeStruct]] = {} if self.sources is None else self.sources.shapes()
        for name, layer in self.layers:
            if isinstance(layer, PagedLayer):
                pages = self.num_pages[layer.group]
                shapes[name] = {
                    each: jax.ShapeDtypeStruct((pages, heads, self.page_size, width), dtype)
                    for each, heads, width, dtype in layer.shapes
                }
            else:
                shapes[name] = {
                    each: jax.ShapeDtypeStruct((self.rows, *shape), dtype) for each, shape, dtype in layer.shapes
                }
        return shapes

    def empty(self, layout: Layout) -> DeviceState:
        """Returns arrays of zeros."""
        return self.sharded(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.shapes()), layout)

    def sharded(self, state: DeviceState, layout: Layout) -> DeviceState:
        """Returns the arrays, laid out over the mesh."""
        sharded: DeviceState = {
            name: PagedCache(arrays, "kv_heads").sharded(layout).arrays
            for name, arrays in state.items()
            if name.startswith(NAME)
        }
        for name, layer in self.layers:
            if isinstance(layer, PagedLayer):
                sharded[name] = PagedCache(state[name], layer.heads).sharded(layout).arrays
            else:
                axes = (None, "heads")
                sharded[name] = {
                    each: layout.constrain(x, (*axes, *[None] * (x.ndim - 2))) for each, x in state[name].items()
                }
        return sharded

    def caches(self, state: DeviceState, rows: Rows, layout: Layout) -> LayerCaches:
        """Returns the caches of some rows; a state is zero before the first token."""
        caches: dict[str, Any] = {}
        clears = needs_cleared_pages(layout)
        for name, layer in self.layers:
            if isinstance(layer, PagedLayer):
                caches[name] = PagedCache(state[name], layer.heads, rows.tables[layer.group], clears)
            else:
                caches[name] = RecurrentState(
                    {each: _zero_at_start(x.at[rows.state_B].get(mode="clip"), rows) for each, x in state[name].items()}
                )
        if self.sources is not None:
            for name in self.sources.layers:
                source = self.sources.cache(state[NAME + name], rows.state_B, rows.source_length_B)
                caches[name] = DecoderLayerCache(caches.get(name), source)
        return caches

    def with_caches(self, state: DeviceState, caches: LayerCaches, rows: Rows, layout: Layout) -> DeviceState:
        """Returns the arrays with the caches of some rows after a pass."""
        after: DeviceState = {name: arrays for name, arrays in state.items() if name.startswith(NAME)}
        for name, layer in self.layers:
            cache: Any = caches[name]
            cache = cache if self.sources is None else cache.mixer
            if isinstance(layer, PagedLayer):
                after[name] = cache.arrays
            else:
                write = lambda x, new: x.at[rows.state_B].set(new, mode="drop")  # noqa: E731
                after[name] = jax.tree.map(write, state[name], cache.arrays)
        return self.sharded(after, layout)

    def bytes_of(self, group: int | None) -> int:
        """Returns the bytes of a page of all layers of a group, or of the states and the source of a row."""
        total = self.sources.row_bytes if self.sources is not None and group is None else 0
        for _, layer in self.layers:
            if isinstance(layer, RecurrentLayer) and group is None:
                total += sum(math.prod(shape) * jnp.dtype(dtype).itemsize for _, shape, dtype in layer.shapes)
            elif isinstance(layer, PagedLayer) and layer.group == group:
                sizes = (heads * width * jnp.dtype(dtype).itemsize for _, heads, width, dtype in layer.shapes)
                total += self.page_size * sum(sizes)
        return total


def plan_cache(config: ModelConfig, options: EngineOptions, cache_tokens: int) -> CachePlan:
    """Returns the arrays of an engine whose cache holds so many tokens."""
    caches: dict[str, Any] = jax.eval_shape(lambda: empty_caches(config, 1, 1))
    if config.encoder is not None:
        caches = {name: cache.mixer for name, cache in caches.items() if cache.mixer is not None}
    modules = options.speculation.tokens if isinstance(options.speculation, Modules) else 0
    last = caches.get(str(config.num_layers - 1))
    caches |= {str(config.num_layers + k): last for k in range(modules) if last is not None}
    reaches: list[int | None] = []
    layers: list[tuple[str, PagedLayer | RecurrentLayer]] = []
    for name, cache in caches.items():
        mixer = config.layers[min(int(name), config.num_layers - 1)].mixer
        if not isinstance(cache, AttentionCache):
            layers.append(
                (name, RecurrentLayer(tuple((n, x.shape[1:], str(x.dtype)) for n, x in cache.arrays.items())))
            )
            continue
        assert isinstance(mixer, AttentionOption)
        reach = mixer.pattern.reach()
        reach = None if reach is None or reach >= config.context_length else reach
        if reach not in reaches:
            reaches.append(reach)
        stored = options.cache_dtype
        shapes = [(n, x.shape[1], x.shape[3], stored or str(x.dtype)) for n, x in cache.arrays.items()]
        shapes += [(n + SCALE, heads, 1, "float32") for n, heads, *_ in shapes if stored is not None]
        layers.append((name, PagedLayer(reaches.index(reach), cache.heads, tuple(shapes))))
    pages, size = -(-cache_tokens // options.page_size), options.page_size
    longest = min(config.context_length, pages * size) if None in reaches else config.context_length

    def pages_of(reach: int | None) -> int:
        if reach is None:
            return pages
        window = min(pages_of_window(reach, options.tokens_per_step, size), -(-longest // size))
        return max(window, min(pages, options.rows * window))

    num_pages = tuple(pages_of(reach) for reach in reaches)
    sources = plan_sources(config, options)
    return CachePlan(options.rows, size, longest, tuple(reaches), num_pages, tuple(layers), modules, sources)


def _zero_at_start(x: jax.Array, rows: Rows) -> jax.Array:
    return jnp.where(rows.first_B.reshape(-1, *[1] * (x.ndim - 1)) == 0, 0, x)
