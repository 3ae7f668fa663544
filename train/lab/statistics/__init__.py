"""Statistics of ablations: pure functions of numbers. Seeds and documents are the units that are drawn at random."""
