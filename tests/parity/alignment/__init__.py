"""Post-training against other programs."""
