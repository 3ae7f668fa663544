"""TopK and its auxiliary loss, against a loop in float64."""

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from tests.train.inspection.features.autoencoders.reference import M, compared, largest, mean, parameters, tokens
from train.inspection.features.autoencoders.dead import AuxK
from train.inspection.features.autoencoders.top_k import TopK
from train.inspection.features.training.settings import Autoencoder

K, AUX_K, WEIGHT = 3, 2, 0.25


def loss_of(dead, fixed):
    """The loss whose auxiliary term writes the errors of the parameters `fixed`, through which no gradient flows."""
    x, target, weights = tokens()

    def output(p, i):
        return largest(x[i] @ p["encoder"] + p["encoder_bias"], K) @ p["decoder"] + p["decoder_bias"]

    def loss(p):
        values = []
        for i in range(len(x)):
            value = np.sum((output(p, i) - target[i]) ** 2)
            if dead is not None:
                pre = np.where(dead, np.maximum(x[i] @ p["encoder"] + p["encoder_bias"], 0), 0)
                error = target[i] - output(fixed, i)
                value += WEIGHT * np.sum((error - largest(pre, AUX_K) @ p["decoder"]) ** 2)
            values.append(value)
        return mean(values, weights)

    return loss


def test_loss_and_gradient():
    params = parameters()
    found, _ = compared(TopK(k=K, auxiliary=None), params, loss_of(None, params))
    counts = (np.asarray(found.features_BM) > 0).sum(1)
    assert counts.max() == K
    assert counts.min() >= 1


def test_dead_features_write_the_error():
    params = parameters()
    dead = np.arange(M) >= 4
    option = TopK(k=K, auxiliary=AuxK(k=AUX_K, weight=WEIGHT))
    compared(option, params, loss_of(dead, params), dead=dead)
    found, _ = compared(option, params, loss_of(None, params))  # without a dead feature
    assert float(found.terms["auxiliary"]) == 0


def test_more_than_all_features_are_refused():
    with pytest.raises(UserError, match=r"architecture\.k: 40 of 8 features"):
        check(Autoencoder(name="a", width=8, architecture=TopK(k=40)))
