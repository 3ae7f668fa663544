import numpy as np
import pytest

from model.parameters.maker import Normal
from model.positions.absolute import NoPositions
from model.recurrent.gru import GRU, GRUMixer
from model.transformer import abstract_params, logical_axes


def by_hand(w, x):
    """Computes the equations, one head at a time; if there is a reset bias, the reset comes after the product."""
    s = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    heads, width = w["recurrent"].shape[:2]
    out = np.zeros((len(x), w["output"].shape[-1]))
    for n in range(heads):
        hidden = np.zeros(width)
        for t in range(len(x)):
            from_input = [x[t] @ w["input"][:, i, n] + w["bias"][i, n] for i in range(3)]
            u = [w["recurrent"][n, :, i] for i in range(3)]
            reset, update = (s(from_input[i] + hidden @ u[i]) for i in (0, 1))
            if "reset_bias" in w:
                new = np.tanh(from_input[2] + reset * (hidden @ u[2] + w["reset_bias"][n]))
            else:
                new = np.tanh(from_input[2] + (reset * hidden) @ u[2])
            hidden = update * hidden + (1 - update) * new
            out[t] += hidden @ w["output"][n]
    return out


@pytest.mark.parametrize("option", [GRU(), GRU(num_heads=2, head_dim=3, reset="before")], ids=repr)
def test_layer(maker, against_loop, option):
    against_loop(GRUMixer(option, 8, "float32", maker(Normal())), by_hand)


def test_axes(small):
    config = small(mixer=GRU(num_heads=2, head_dim=3), position=NoPositions())
    axes, shapes = logical_axes(config)["blocks"]["mixer"], abstract_params(config)["blocks"]["mixer"]
    assert {name: (axes[name], shapes[name].shape) for name in axes} == {
        "input": (("layer", "embed", None, "heads", "head_dim"), (2, 16, 3, 2, 3)),
        "recurrent": (("layer", "heads", "head_dim", None, None), (2, 2, 3, 3, 3)),
        "bias": (("layer", None, "heads", "head_dim"), (2, 3, 2, 3)),
        "reset_bias": (("layer", "heads", "head_dim"), (2, 2, 3)),
        "output": (("layer", "heads", "head_dim", "embed"), (2, 2, 3, 16)),
    }


def test_taps(small, drawn, run, tokens):
    config = small(mixer=GRU(num_heads=2), position=NoPositions())
    names = ("reset_gate", "update_gate", "hidden")
    taps = run(config, drawn(config), tokens, taps=names)[2]
    assert {taps[name].shape for name in names} == {(2, 2, 12, 2, 8)}
