"""Tokenized text on disk."""
