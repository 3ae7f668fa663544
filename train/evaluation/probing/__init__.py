"""Runs under probes: measures a model on the tasks of train/evaluation/probes/, and draws the findings."""
