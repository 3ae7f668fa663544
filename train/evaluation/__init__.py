"""Measuring a trained model: perplexity and bits per byte of a split, of files, and what they are compared with."""
