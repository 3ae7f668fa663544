"""Attention: grouped-query and latent heads, patterns of keys that a query sees, caches."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    grouped_query="GroupedQuery QKNorm",
    latent="Latent",
    patterns="BlockSparse Chunked Everything Fixed SlidingWindow Strided",
    value_residual="ValueResidual",
)
