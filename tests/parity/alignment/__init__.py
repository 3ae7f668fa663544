"""Comparison with the programs of other projects for post-training, in environments that have them."""
