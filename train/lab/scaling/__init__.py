"""Scaling laws: fits of loss against parameters and tokens, ladders of runs, the gradient noise scale."""
