"""The architecture: pure functions of parameters. Imports jax, flax and nothing of train/, configs/ or launch/."""
