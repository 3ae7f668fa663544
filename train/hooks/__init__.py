"""Actions of a training run every n steps and at its end, one file each; interface.py defines a hook."""

from model.exports import exports

__all__, __getattr__ = exports(__name__, interface="Hook Session StepInfo")
