"""Configs of what is trained on a model's activations."""
