import numpy as np

from model.layers import Except
from model.positions.absolute import NoPositions
from model.residual import PreNorm
from model.taps.request import Tap
from model.transformer import forward


def test_where_the_norms_sit(small, assert_equation):
    assert_equation(small(residual=PreNorm()), lambda x: (x := x + np.sin(2 * x + 1)) + np.cos(3 * x - 1))


def test_the_first_sublayer_may_read_the_stream_without_a_norm(small, drawn):
    """The stream after the first layer's mixer is x + mixer(x) for the embedding x, and norms of later layers stay."""
    config = small(residual=PreNorm(first_norm=False), scan_layers=False)
    params = drawn(config)
    assert "mixer_norm" not in params["blocks"]["0"]["residual"]
    assert "mixer_norm" in params["blocks"]["1"]["residual"]
    assert "ffn_norm" in params["blocks"]["0"]["residual"]
    taps = ("embedding", Tap("query", layers=(0,)))
    tokens = np.arange(6)[None] % 17
    kept = forward(small(residual=PreNorm(first_norm=False), position=NoPositions()), params, tokens, taps=taps).taps
    query = np.einsum("BTD,DNH->BTNH", kept["embedding"], params["blocks"]["0"]["mixer"]["query"][0])
    np.testing.assert_allclose(kept["query"][0], query, rtol=1e-4, atol=1e-5)


def test_only_the_first_layer_lacks_a_norm_where_the_mixer_is_missing_there(small, drawn):
    config = small(residual=PreNorm(first_norm=False), exceptions=(Except(layers="0", mixer=None),))
    first, second = (drawn(config)["blocks"][name].get("residual", {}) for name in ("0", "1"))
    assert "ffn_norm" not in first
    assert {"mixer_norm", "ffn_norm"} <= second.keys()
