"""Ladders: many small runs of one experiment, the law through them, and a larger run that it predicts."""
