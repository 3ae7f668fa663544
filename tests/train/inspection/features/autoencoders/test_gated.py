"""The loss of gated autoencoders and its gradient, against a loop in float64."""

import numpy as np

from tests.train.inspection.features.autoencoders.reference import M, compared, mean, parameters, tokens
from train.inspection.features.autoencoders.gated import Gated

L1 = 0.4


def gated_parameters():
    draw = np.random.default_rng(3)
    params = parameters(
        **{name: draw.normal(size=M) * 0.3 for name in ("gate_bias", "magnitude_bias", "log_magnitude")}
    )
    del params["encoder_bias"]
    return params


def loss_of(frozen):
    """The loss whose auxiliary term has the decoder `frozen`."""
    x, target, weights = tokens()

    def loss(p):
        values = []
        for i in range(len(x)):
            products = x[i] @ p["encoder"]
            gate = products + p["gate_bias"]
            f = np.where(gate > 0, np.maximum(products * np.exp(p["log_magnitude"]) + p["magnitude_bias"], 0), 0)
            y = f @ p["decoder"] + p["decoder_bias"]
            open_gate = np.maximum(gate, 0)
            sizes = np.linalg.norm(p["decoder"], axis=1)
            auxiliary = open_gate @ frozen["decoder"] + frozen["decoder_bias"]
            values.append(
                np.sum((y - target[i]) ** 2) + L1 * np.sum(open_gate * sizes) + np.sum((auxiliary - target[i]) ** 2)
            )
        return mean(values, weights)

    return loss


def test_loss_and_gradient():
    params = gated_parameters()
    found, _ = compared(Gated(l1=L1), params, loss_of(params))
    assert set(found.terms) == {"reconstruction", "penalty", "gate_reconstruction"}


def test_a_closed_gate_stops_a_large_magnitude():
    params = {name: np.float32(x) for name, x in gated_parameters().items()}
    params["gate_bias"][0] = -100.0
    params["magnitude_bias"][0] = 100.0
    features = np.asarray(Gated().encode(params, np.float32(tokens()[0])))
    assert np.all(features[:, 0] == 0)
    assert np.any(features[:, 1:] > 0)
