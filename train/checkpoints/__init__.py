"""Checkpoints: saved, checked, kept, restored."""
