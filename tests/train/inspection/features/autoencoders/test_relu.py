"""The loss of ReLU with L1 and its gradient, against a loop in float64."""

import numpy as np

from tests.train.inspection.features.autoencoders.reference import compared, mean, parameters, tokens
from train.inspection.features.autoencoders.relu import ReLU


def loss_of(l1):
    x, target, weights = tokens()

    def loss(p):
        values = []
        for i in range(len(x)):
            f = np.maximum(x[i] @ p["encoder"] + p["encoder_bias"], 0)
            y = f @ p["decoder"] + p["decoder_bias"]
            penalty = sum(f[j] * np.sqrt(np.sum(p["decoder"][j] ** 2)) for j in range(len(f)))
            values.append(np.sum((y - target[i]) ** 2) + l1 * penalty)
        return mean(values, weights)

    return loss


def test_loss_and_gradient():
    found, _ = compared(ReLU(l1=0.7), parameters(), loss_of(0.7))
    assert set(found.terms) == {"reconstruction", "penalty"}


def test_the_penalty_warms_up():
    compared(ReLU(l1=0.8, warmup_steps=4), parameters(), loss_of(0.6), step=2)
    compared(ReLU(l1=0.8, warmup_steps=4), parameters(), loss_of(0.8), step=9)
