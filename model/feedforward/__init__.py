"""Feed-forward layers and mixtures of experts."""

from model.feedforward.balance import BalanceLoss, LoadBias
from model.feedforward.dispatch import Capacity, Dropless
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.feedforward.routing import Groups, SigmoidRouter, SoftmaxRouter

__all__ = [
    "MLP",
    "BalanceLoss",
    "Capacity",
    "Dropless",
    "Experts",
    "Gated",
    "Groups",
    "LoadBias",
    "Shared",
    "SigmoidRouter",
    "SoftmaxRouter",
]
