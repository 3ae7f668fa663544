"""Preferences: pairs of answers of which one is better, or answers with a label; from jsonl to batches."""
