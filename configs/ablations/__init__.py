"""Ablations for launch.sweep: each file names a base, variants of it, and the quantity that is held equal."""
