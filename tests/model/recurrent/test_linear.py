import numpy as np
import pytest

from model.parameters.maker import Normal
from model.positions.absolute import NoPositions
from model.recurrent.linear import LinearAttention, LinearAttentionMixer, features
from model.transformer import abstract_params, logical_axes


def build(maker, option, width=8):
    return LinearAttentionMixer(option, width, "float32", maker(Normal()))


def by_hand(w, x):
    """Computes equations 8 and 9 of the paper, causal: each query's weights on the keys up to its own, head by head."""
    f = lambda v: np.where(v > 0, v + 1, np.exp(np.minimum(v, 0)))  # noqa: E731
    out = np.zeros((len(x), w["output"].shape[-1]))
    for head in range(w["query"].shape[1]):
        q, k, v = (x @ w[name][:, head] for name in ("query", "key", "value"))
        for t in range(len(x)):
            weights = np.array([f(q[t]) @ f(k[s]) for s in range(t + 1)])
            out[t] += (weights / weights.sum()) @ v[: t + 1] @ w["output"][head]
    return out


def test_features():
    np.testing.assert_allclose(features(np.array([-2.0, 0.0, 3.0])), [np.exp(-2.0), 1, 4], rtol=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        LinearAttention(num_heads=2, chunk=4),
        LinearAttention(num_heads=3, head_dim=5, chunk=64),
        LinearAttention(num_heads=1, chunk=1),
    ],
    ids=repr,
)
def test_layer(maker, against_loop, option):
    against_loop(build(maker, option), by_hand)


def test_weights_are_those_that_sum_the_values(small, drawn, run, tokens):
    config = small(mixer=LinearAttention(num_heads=2, chunk=5), position=NoPositions(), num_layers=1)
    segment_ids = np.repeat([1, 2], 6)[None].repeat(2, 0).astype(np.int32)
    wanted = ("attention_weights", "mixer_heads", "value")
    taps = run(config, drawn(config), tokens, taps=wanted, segment_ids_BT=segment_ids)[2]
    weights = np.asarray(taps["attention_weights"])[0]
    t, s = np.mgrid[:12, :12]
    np.testing.assert_array_equal(weights > 0, np.broadcast_to((t >= s) & (t // 6 == s // 6), weights.shape))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-4)
    sums = np.einsum("BNTS,BSNH->BTNH", weights, taps["value"][0])
    np.testing.assert_allclose(sums, taps["mixer_heads"][0], rtol=1e-4, atol=1e-5)


def test_axes(small):
    config = small(mixer=LinearAttention(num_heads=2), position=NoPositions())
    axes, shapes = logical_axes(config)["blocks"]["mixer"], abstract_params(config)["blocks"]["mixer"]
    assert {name: (axes[name], shapes[name].shape) for name in axes} == {
        **dict.fromkeys(("query", "key", "value"), (("layer", "embed", "heads", "head_dim"), (2, 16, 2, 8))),
        "output": (("layer", "heads", "head_dim", "embed"), (2, 2, 8, 16)),
    }
