"""Attention: heads, latent attention, which keys a query sees and how it scores them, the cache."""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.patterns import BlockSparse, Chunked, Everything, Fixed, SlidingWindow, Strided
from model.attention.value_residual import ValueResidual

__all__ = [
    "BlockSparse",
    "Chunked",
    "Everything",
    "Fixed",
    "GroupedQuery",
    "Latent",
    "QKNorm",
    "SlidingWindow",
    "Strided",
    "ValueResidual",
]
