import dataclasses

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import Chunked, SlidingWindow
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.layers import Except, group_layers
from model.positions.absolute import NoPositions
from model.positions.rotary import Rotary
from model.transformer import forward
from tests.tiers import representatives

BASE = GroupedQuery(num_heads=4, num_kv_heads=2)


def restacked(config, params):
    """The parameters of a model with one stack, as the model with these exceptions has them."""
    blocks = {}
    for group in group_layers(config.layers):
        for index in range(len(group.pattern)):
            numbers = np.array(group.layer_numbers(index))
            blocks[str(numbers[0])] = jax.tree.map(lambda x, numbers=numbers: x[numbers], params["blocks"])
    return {**params, "blocks": blocks}


@pytest.mark.parametrize("layers", representatives(["::2", "1", "-1", "2::3"], "::2"))
def test_layers_of_another_kind_that_do_the_same_change_nothing(small, drawn, run, tokens, layers):
    """A window wider than the sequence is another mechanism with the same numbers, so layers are grouped apart."""
    alike = small(num_layers=7)
    config = dataclasses.replace(
        alike, exceptions=(Except(layers=layers, mixer=dataclasses.replace(BASE, pattern=SlidingWindow(size=99))),)
    )
    params = drawn(alike)
    taps = ("block_output", "attention_weights")
    expected, _, expected_taps = run(alike, params, tokens, taps=taps)
    logits, _, kept = run(config, restacked(config, params), tokens, taps=taps)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    for name in taps:
        np.testing.assert_allclose(kept[name], expected_taps[name], rtol=1e-5, atol=1e-5)


MIXED = {
    "num_layers": 6,
    "mixer": dataclasses.replace(BASE, pattern=SlidingWindow(size=3)),
    "exceptions": (
        Except(layers="0", ffn=Gated(width=20)),
        Except(layers="2::3", mixer=BASE, position=NoPositions()),
        Except(layers="4", mixer=dataclasses.replace(BASE, pattern=Chunked(size=4)), position=Rotary(theta=9.0)),
    ),
}


def test_every_layer_has_its_own_pattern(small, drawn, run, tokens):
    weights = np.asarray(
        run(small(**MIXED), drawn(small(**MIXED)), tokens, taps=["attention_weights"])[2]["attention_weights"]
    )
    t, s = np.mgrid[:12, :12]
    window, chunk, whole = (t >= s) & (t - s < 3), (t >= s) & (t // 4 == s // 4), t >= s
    for layer, mask in zip(weights, [window, window, whole, window, chunk, whole], strict=True):
        np.testing.assert_array_equal(layer > 0, np.broadcast_to(mask, layer.shape))


@pytest.mark.parametrize("remat", representatives(["none", "dots", "full"], "full"))
def test_scanned_and_written_out_are_one_function(small, drawn, tokens, remat):
    config = small(**MIXED)
    params = drawn(config)
    towards = np.random.default_rng(0).normal(size=(2, 12, 17)).astype(np.float32)

    def loss(config):
        return jax.jit(jax.value_and_grad(lambda params: (forward(config, params, tokens).logits_BTV * towards).sum()))(
            params
        )

    expected, expected_grads = loss(dataclasses.replace(config, scan_layers=False))
    got, grads = loss(dataclasses.replace(config, remat=remat))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, expected_grads)


def test_dropout_draws_the_same_in_every_grouping(small, drawn, run, tokens):
    """The dropout mask of a layer depends on the number of the layer and not on its stack."""
    from model.dropout import Dropout

    alike = small(num_layers=5, dropout=Dropout(residual=0.5))
    same = dataclasses.replace(BASE, pattern=SlidingWindow(size=99))
    config = dataclasses.replace(alike, exceptions=(Except(layers="1::2", mixer=same),))
    params, key = drawn(alike), jax.random.key(3)
    expected = run(alike, params, tokens, dropout_key=key)[0]
    np.testing.assert_allclose(
        run(config, restacked(config, params), tokens, dropout_key=key)[0], expected, rtol=1e-5, atol=1e-5
    )


def test_taps_of_different_shapes_are_not_stacked(small, drawn, tokens):
    config = small(exceptions=(Except(layers="1", ffn=Gated(width=20)),))
    with pytest.raises(UserError, match=r"'ffn_hidden' has shapes \(2, 12, 20\) and \(2, 12, 24\)"):
        jax.eval_shape(lambda: forward(config, drawn(config), tokens, taps=["ffn_hidden"]).logits_BTV)
    taps = jax.eval_shape(lambda: forward(config, drawn(config), tokens, taps=["ffn_output"]).taps)
    assert taps["ffn_output"].shape == (2, 2, 12, 16)
