import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.visibility import Coordinates, causal
from model.block import Block
from model.layout import ONE_DEVICE
from model.parameters import Normal, ParameterMaker
from model.residual import Multipliers, Parallel, PostNorm, PreNorm, Reordered, Sandwich
from model.taps import Context


def build(config, dropout_key=None, layout=ONE_DEVICE):
    make = ParameterMaker(jax.random.key(0), Normal(std=0.5), config.num_layers, "float32")
    block = Block(config, config.layers[0], make)
    context = Context(
        index_BT=jnp.arange(5)[None], visibility=causal(Coordinates(5)), dropout_key=dropout_key, layout=layout
    )
    return block, context


X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)


EQUATIONS = {
    PreNorm(): lambda x: (x := x + np.sin(2 * x + 1)) + np.cos(3 * x - 1),
    PostNorm(): lambda x: 3 * ((x := 2 * (x + np.sin(x)) + 1) + np.cos(x)) - 1,
    PostNorm(alpha=1.5): lambda x: 3 * (1.5 * (x := 2 * (1.5 * x + np.sin(x)) + 1) + np.cos(x)) - 1,
    Sandwich(): lambda x: (x := x + 0.5 * np.sin(2 * x + 1) - 1) + 0.25 * np.cos(3 * x - 1) + 2,
    Reordered(): lambda x: (x := x + 0.5 * np.sin(x) - 1) + 0.25 * np.cos(x) + 2,
    Parallel(): lambda x: x + np.sin(2 * x + 1) + np.cos(2 * x + 1),
    Parallel(shared_norm=False): lambda x: x + np.sin(2 * x + 1) + np.cos(3 * x - 1),
}


def stood_in(config):
    """A block with stand-ins for its parts, where it has them."""
    block, context = build(config)
    block.attention = lambda x, context, cache: (jnp.sin(x), cache)
    block.ffn = lambda x, context: jnp.cos(x)
    stand_ins = {
        "attention_norm": lambda x: 2 * x + 1,
        "attention_output_norm": lambda x: 0.5 * x - 1,
        "ffn_norm": lambda x: 3 * x - 1,
        "ffn_output_norm": lambda x: 0.25 * x + 2,
    }
    for name, stand_in in stand_ins.items():
        if getattr(block, name) is not None:
            setattr(block, name, stand_in)
    return block, context


@pytest.mark.parametrize("residual", EQUATIONS, ids=repr)
def test_where_the_norms_sit(small, residual):
    """With stand-ins for the parts, the equation of each placement, written out."""
    block, context = stood_in(small(residual=residual))
    got, _ = block(X, context, None)
    np.testing.assert_allclose(got, EQUATIONS[residual](X.astype(np.float64)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("residual", [PreNorm(), Parallel()], ids=repr)
def test_what_a_sublayer_adds_is_scaled(small, residual):
    config = small(residual=residual, layer_scale=0.5, multipliers=Multipliers(residual=3.0))
    block, context = stood_in(config)
    gains = np.linspace(-1, 1, 16, dtype=np.float32), np.linspace(1, 3, 16, dtype=np.float32)
    np.testing.assert_array_equal(block.attention_gain[...], np.full(16, 0.5))
    block.attention_gain[...], block.ffn_gain[...] = gains
    x = X.astype(np.float64)
    after = x + 3 * gains[0] * np.sin(2 * x + 1)
    read = 3 * after - 1 if residual == PreNorm() else 2 * x + 1
    np.testing.assert_allclose(block(X, context, None)[0], after + 3 * gains[1] * np.cos(read), rtol=1e-5, atol=1e-5)


def test_the_cache_goes_through_the_attention(small):
    block, context = build(small())
    block.attention = lambda x, context, cache: (x, ("next", cache))
    assert block(X, context, "this")[1] == ("next", "this")


def test_activations_are_placed_by_the_names_of_their_axes(small, recording):
    block, context = build(small(), layout=recording)
    jax.eval_shape(lambda x: block(x, context, None)[0], X)
    assert recording.placed == [
        (("batch", "query_sequence", "embed"), (2, 5, 16)),
        (("batch", "query_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "heads", "head_dim"), (2, 5, 4, 4)),
        (("batch", "key_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "key_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "heads", "head_dim"), (2, 5, 4, 4)),
        *[(("batch", "sequence", "embed"), (2, 5, 16))] * 2,
        (("batch", "ffn_sequence", "embed"), (2, 5, 16)),
        (("batch", "ffn_sequence", "ffn"), (2, 5, 24)),
        *[(("batch", "sequence", "embed"), (2, 5, 16))] * 2,
    ]
