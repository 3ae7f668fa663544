"""What a training does every so many steps, and at its end: one file each; interface.py says what a hook is."""

from model.exports import exports

__all__, __getattr__ = exports(__name__, interface="Hook Moment Session")
