import jax
import jax.numpy as jnp
import numpy as np

from model.attention.visibility import Coordinates, causal
from model.block import Block
from model.parameters import Normal, ParameterMaker
from model.taps import Context


def build(config, dropout_key=None, shard=None):
    make = ParameterMaker(jax.random.key(0), Normal(std=0.5), config.num_layers, "float32")
    block = Block(config, config.layers[0], make, 0)
    context = Context(index_BT=jnp.arange(5)[None], visibility=causal(Coordinates(5)), dropout_key=dropout_key)
    if shard is not None:
        context.shard = shard
    return block, context


X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)


def test_the_cache_goes_through_the_attention(small):
    block, context = build(small())
    block.attention = lambda x, context, cache: (x, ("next", cache))
    assert block(X, context, "this")[1] == ("next", "this")


def test_activations_are_placed_by_the_names_of_their_axes(small):
    placed = []

    def shard(x, axes):
        assert x.ndim == len(axes)
        placed.append((axes, x.shape))
        return x

    block, context = build(small(), shard=shard)
    jax.eval_shape(lambda x: block(x, context, None)[0], X)
    assert placed == [
        (("batch", "sequence", "heads", "head_dim"), (2, 5, 4, 4)),
        (("batch", "sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "sequence", "embed"), (2, 5, 16)),
        (("batch", "sequence", "ffn"), (2, 5, 24)),
        (("batch", "sequence", "embed"), (2, 5, 16)),
    ]
