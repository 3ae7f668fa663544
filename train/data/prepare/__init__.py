"""Turns texts into a dataset folder."""
