import numpy as np
import pytest

from model.parameters.maker import Normal
from model.positions.absolute import NoPositions
from model.recurrent.lstm import LSTM, LSTMMixer
from model.transformer import abstract_params, logical_axes


def by_hand(w, x):
    """Computes the equations, one cell of one head at a time."""
    s = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    heads, width = w["recurrent"].shape[:2]
    out = np.zeros((len(x), w["output"].shape[-1]))
    for n in range(heads):
        hidden, cell = np.zeros(width), np.zeros(width)
        for t in range(len(x)):
            g = [x[t] @ w["input"][:, i, n] + hidden @ w["recurrent"][n, :, i] for i in range(w["input"].shape[1])]
            enters, shows, new = s(g[0] + w["bias"][0, n]), s(g[1] + w["bias"][1, n]), np.tanh(g[2] + w["bias"][2, n])
            kept = s(g[3] + w["forget_bias"][n]) if "forget_bias" in w else 1.0
            cell = kept * cell + enters * new
            hidden = shows * np.tanh(cell)
            out[t] += hidden @ w["output"][n]
    return out


@pytest.mark.parametrize(
    "option", [LSTM(), LSTM(num_heads=2, head_dim=3), LSTM(num_heads=4, forget_bias=None)], ids=repr
)
def test_layer(maker, against_loop, option):
    against_loop(LSTMMixer(option, 8, "float32", maker(Normal())), by_hand)


def test_axes_and_where_biases_start(small, maker):
    option = LSTM(num_heads=2, head_dim=3, forget_bias=2.5)
    config = small(mixer=option, position=NoPositions())
    axes, shapes = logical_axes(config)["blocks"]["mixer"], abstract_params(config)["blocks"]["mixer"]
    assert {name: (axes[name], shapes[name].shape) for name in axes} == {
        "input": (("layer", "embed", None, "heads", "head_dim"), (2, 16, 4, 2, 3)),
        "recurrent": (("layer", "heads", "head_dim", None, None), (2, 2, 3, 4, 3)),
        "bias": (("layer", None, "heads", "head_dim"), (2, 3, 2, 3)),
        "forget_bias": (("layer", "heads", "head_dim"), (2, 2, 3)),
        "output": (("layer", "heads", "head_dim", "embed"), (2, 2, 3, 16)),
    }
    fresh = LSTMMixer(option, 16, "float32", maker(Normal()))
    assert (fresh.forget_bias[...] == 2.5).all()
    assert not fresh.bias[...].any()


def test_taps(small, drawn, run, tokens):
    config = small(mixer=LSTM(num_heads=2), position=NoPositions())
    names = ("forget_gate", "input_gate", "output_gate", "cell", "hidden")
    taps = run(config, drawn(config), tokens, taps=names)[2]
    assert {taps[name].shape for name in names} == {(2, 2, 12, 2, 8)}
    np.testing.assert_allclose(taps["output_gate"] * np.tanh(taps["cell"]), taps["hidden"], rtol=1e-5, atol=1e-6)
