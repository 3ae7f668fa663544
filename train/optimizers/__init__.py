"""Optimizers, and the guard that skips steps."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    options="Adafactor AdamW Lion Muon SGD ScheduleFreeAdamW",
    guard="Guard",
)
