"""Tokenized text on a disk."""
