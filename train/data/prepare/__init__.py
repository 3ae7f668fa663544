"""From texts to a dataset folder."""
