"""Feed-forward layers and mixtures of experts."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    mlp="Gated MLP",
    experts="Experts Shared",
    routing="Groups SigmoidRouter SoftmaxRouter",
    dispatch="Capacity Dropless",
    balance="BalanceLoss LoadBias",
)
