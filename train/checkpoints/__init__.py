"""Checkpoints: saving, verification, retention and restoring."""
