"""Optimizers, schedules, skipped steps."""
