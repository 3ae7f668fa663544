"""Ablations: each file names a base and changes one thing."""
