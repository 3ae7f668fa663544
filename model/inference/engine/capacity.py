"""How much fits into an engine's cache, from its options alone."""

import functools
import math
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.inference.engine.device_state import CachePlan, plan_cache
from model.inference.engine.options import Capacity, EngineOptions
from model.recurrent.memory import RecurrentOption
from model.transformer import abstract_params


def shares_pages(config: ModelConfig) -> bool:
    """Whether texts that begin alike can share pages: no layer leaves a state, and no position reads a length."""
    return not config.reads_lengths and not any(isinstance(layer.mixer, RecurrentOption) for layer in config.layers)


def plan_of(config: ModelConfig, options: EngineOptions) -> CachePlan:
    """Returns the arrays of an engine; makes none."""
    if options.cache_tokens is not None:
        return plan_cache(config, options, options.cache_tokens)
    wanted = options.rows * config.context_length
    plan = plan_cache(config, options, wanted)
    room = _device_memory() // 2 - sum(
        math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(abstract_params(config))
    )
    capacity = capacity_of(plan)
    if capacity.cache_bytes <= room or not capacity.bytes_per_token:
        return plan
    fewer = (room - options.rows * capacity.bytes_per_row) // capacity.bytes_per_token
    return plan_cache(config, options, max(options.page_size, min(wanted, fewer)))


def capacity_of(plan: CachePlan) -> Capacity:
    """Returns the size of the arrays of a plan."""
    groups = list(enumerate(zip(plan.reaches, plan.num_pages, strict=True)))
    whole = [group for group, (reach, _) in groups if reach is None]
    row_bytes, sources = plan.bytes_of(None), plan.sources
    window_bytes = sum(plan.bytes_of(group) * pages for group, (reach, pages) in groups if reach is not None)
    page_bytes = sum(plan.bytes_of(group) for group in whole)
    tokens = plan.num_pages[whole[0]] * plan.page_size if whole else plan.rows * plan.longest_text
    return Capacity(
        tokens=tokens,
        longest_text=plan.longest_text,
        cache_bytes=sum(plan.bytes_of(group) * pages for group, (_, pages) in groups) + plan.rows * row_bytes,
        bytes_per_token=page_bytes // plan.page_size,
        bytes_per_row=row_bytes + window_bytes // plan.rows,
        longest_source=0 if sources is None else sources.longest,
        source_bytes=0 if sources is None else sources.row_bytes,
    )


@functools.cache
def _device_memory() -> int:
    """Returns the bytes of a device's memory, or of this machine's where devices do not say."""
    stats: Mapping[str, int] = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
