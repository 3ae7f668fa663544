import jax
import jax.numpy as jnp
import numpy as np

from model.block import Block
from model.context import Context
from model.kernels.visibility import Coordinates, causal
from model.layout import ONE_DEVICE
from model.parameters.maker import Normal, ParameterMaker


def build(config, dropout_key=None, layout=ONE_DEVICE):
    make = ParameterMaker(jax.random.key(0), Normal(std=0.5), config.num_layers, "float32")
    block = Block(config, config.layers[0], make, 0)
    context = Context(
        index_BT=jnp.arange(5)[None], visibility=causal(Coordinates(5)), dropout_key=dropout_key, layout=layout
    )
    return block, context


X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)


def test_the_cache_goes_through_the_attention(small):
    block, context = build(small())
    block.mixer = lambda x, context, cache: (x, ("next", cache))
    assert block(X, context, "this")[1] == ("next", "this")


def test_activations_are_placed_by_the_names_of_their_axes(small, recording):
    block, context = build(small(), layout=recording)
    jax.eval_shape(lambda x: block(x, context, None)[0], X)
    assert recording.placed == [
        (("batch", "query_sequence", "embed"), (2, 5, 16)),
        (("batch", "query_sequence", "heads", "head_dim"), (2, 5, 4, 4)),
        (("batch", "query_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "kv_heads", "head_dim"), (2, 5, 2, 4)),
        (("batch", "query_sequence", "heads", "head_dim"), (2, 5, 4, 4)),
        *[(("batch", "sequence", "embed"), (2, 5, 16))] * 2,
        (("batch", "ffn_sequence", "embed"), (2, 5, 16)),
        (("batch", "ffn_sequence", "ffn"), (2, 5, 24)),
        *[(("batch", "sequence", "embed"), (2, 5, 16))] * 2,
    ]
