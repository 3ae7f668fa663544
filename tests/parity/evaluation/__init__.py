"""Evaluations beside those of other programs, live."""
