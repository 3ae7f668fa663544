"""Optimizers, the guard that skips steps, and the option that says which steps are spikes."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    options="Adafactor AdamW Lion Muon SGD ScheduleFreeAdamW",
    guard="Guard",
    spikes="Spikes",
)
