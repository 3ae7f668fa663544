"""Attention: maps over a text, and the roles of heads."""
