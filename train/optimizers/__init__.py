"""Optimizers, schedules, skipped steps."""

from train.optimizers.guard import Guard
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW

__all__ = [
    "SGD",
    "Adafactor",
    "AdamW",
    "Guard",
    "Lion",
    "Muon",
    "ScheduleFreeAdamW",
]
