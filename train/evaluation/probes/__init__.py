"""Probes: tasks without data that show one ability of a model, each with the losses of known strategies beside it.

A task makes sequence n as a pure function of a seed and n, so that a run can be trained on it too
(train/data/generated.py).
"""
