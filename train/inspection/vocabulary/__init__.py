"""Tokens and their vectors: what a tokenizer does to a text, neighbours, analogies, a map in two dimensions."""
