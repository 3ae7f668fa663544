"""The run folder: files, metrics, progress, environment."""
