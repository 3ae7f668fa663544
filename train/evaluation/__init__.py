"""Evaluation of a trained model: perplexity and bits per byte of a split or of files, and baselines for comparison."""
