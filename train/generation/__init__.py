"""Generation: texts sampled from a model."""
