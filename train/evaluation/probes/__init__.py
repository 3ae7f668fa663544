"""Probes: tasks without data that show one ability of a model, each with the losses of known strategies beside it.

A task makes sequence n as a pure function of a seed and n, so a run can also be trained on it (train/data/generated.py).
"""
