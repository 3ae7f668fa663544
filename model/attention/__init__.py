"""Attention: heads, latent attention, the patterns of visible keys, the cache."""
