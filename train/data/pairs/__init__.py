"""Pairs of a source and a target, for models with an encoder: read, stored as tokens, and made into batches."""
