"""Batch n as a pure function of (data, seed, n)."""
