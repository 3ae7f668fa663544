"""Objectives: the functions that a training step minimises."""
