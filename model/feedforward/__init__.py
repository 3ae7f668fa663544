"""Feed-forward layers and mixtures of experts."""
