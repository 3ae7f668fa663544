"""Conversion of published weights: from a Hugging Face folder to a run folder, and back."""
