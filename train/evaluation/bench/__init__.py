"""Evaluations of more than one number: two models on the same text, and one model in windows of several lengths."""
