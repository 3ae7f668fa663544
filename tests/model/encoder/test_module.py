"""The layers of an encoder: both directions, its own positions and dropout, what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.dropout import Dropout
from model.encoder.source import Source
from model.errors import UserError
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.recurrent.gru import GRU
from model.residual import PostNorm
from model.transformer import abstract_params, forward, init, logical_axes


def test_parameters(pair):
    config = pair(encoder={"position": Learned(offset=2), "num_layers": 3}, position=Sinusoidal())
    tree = abstract_params(config)
    assert tree["encoder"]["position"]["table"].shape == (14, 16)
    assert tree["encoder"]["blocks"]["mixer"]["query"].shape == (3, 16, 2, 8)
    assert "cross" not in tree["encoder"]["blocks"]
    assert tree["blocks"]["cross"]["key"].shape == (2, 16, 2, 4)
    assert logical_axes(config)["blocks"]["cross"]["key"] == ("layer", "embed", "kv_heads", "head_dim")
    assert "final_norm" not in abstract_params(pair(residual=PostNorm()))["encoder"]
    drawn = init(config, jax.random.key(0))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(lambda x: x.shape, tree)
    first, second = drawn["encoder"]["blocks"]["mixer"]["query"][:2]
    assert np.abs(first - second).max() > 0.01


def test_without_positions_the_order_of_a_source_is_not_seen(pair, drawn, run, tokens, source):
    config = pair(encoder={"position": NoPositions()})
    params, rows = drawn(config), np.asarray(source.tokens_BS)
    one, other = (run(config, params, tokens, source=Source(ids))[0] for ids in (rows, rows[:, ::-1]))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    rotary = pair()
    one, other = (run(rotary, params, tokens, source=Source(ids))[0] for ids in (rows, rows[:, ::-1]))
    assert np.abs(one - other).max() > 1e-2


def test_a_recurrence_reads_no_padding(pair, drawn, run, tokens, source):
    config = pair(encoder={"mixer": GRU(num_heads=2), "position": NoPositions()})
    params, rows = drawn(config), np.asarray(source.tokens_BS)
    changed = rows.copy()
    changed[1, 6:] = 3
    lengths = np.array([9, 6])
    one, other = (run(config, params, tokens, source=Source.of_lengths(ids, lengths))[0] for ids in (rows, changed))
    np.testing.assert_array_equal(one, other)


def test_dropout_acts_in_the_encoder_too(pair, drawn, tokens, source):
    """All of the decoder's dropout alike: only another source pass can make the difference of the scores."""
    config = pair(dropout=Dropout(embedding=0.5), scan_layers=False)
    keys = [jax.random.key(0), jax.random.key(1), None]
    cross_keys = jax.jit(
        lambda p, key: forward(config, p, tokens, source=source, dropout_key=key, taps=["cross_key"]).taps["cross_key"]
    )
    taps = [cross_keys(drawn(config), key) for key in keys]
    assert all(np.abs(a - b).max() > 1e-2 for a, b in itertools.pairwise(taps))


def test_what_is_refused(pair, small, drawn, tokens, source):
    config = pair()
    with pytest.raises(UserError, match="a source of 13 tokens is longer than encoder.context_length=12"):
        forward(config, drawn(config), tokens, source=Source(np.zeros((2, 13), np.int32)))
    with pytest.raises(UserError, match="the model has an encoder and was given no source"):
        forward(config, drawn(config), tokens)
    with pytest.raises(UserError, match="the model has no encoder"):
        forward(small(), drawn(small()), tokens, source=source)
