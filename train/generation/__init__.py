"""Texts drawn from a model."""
