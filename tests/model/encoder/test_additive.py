"""Additive attention against a loop in NumPy; in blocks, from a cache, in packed rows; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.context import Context
from model.dropout import Dropout
from model.encoder import additive
from model.encoder.additive import AdditiveAttention
from model.encoder.both_ways import BothWays
from model.encoder.source import PADDING, EncodedSource, Source
from model.errors import UserError
from model.kernels.visibility import Coordinates, causal
from model.layout import Layout
from model.parameters.maker import Normal, ParameterMaker
from model.positions.absolute import NoPositions
from model.recurrent.gru import GRU


@pytest.fixture(scope="module")
def recurrent(pair):
    """Gated recurrent units on both sides, in both directions of the source."""
    encoder = {"mixer": BothWays(mixer=GRU()), "position": NoPositions(), "cross": AdditiveAttention(units=6)}
    return lambda **changes: pair(encoder=encoder, mixer=GRU(), position=NoPositions(), **changes)


def loop(w, x, source):
    """One row: a query at a time, a token of the source at a time, in float64."""
    y = np.zeros_like(x)
    for t in range(len(x)):
        state = np.einsum("D,DNH->H", x[t], w["query"])
        scores = np.array(
            [np.tanh(state + np.einsum("D,DNH->H", annotation, w["key"])) @ w["score"][:, 0] for annotation in source]
        )
        weight = np.exp(scores - scores.max())
        mean = sum(share * annotation for share, annotation in zip(weight / weight.sum(), source))
        y[t] = mean @ w["output"][0]
    return y


@pytest.mark.parametrize("block_entries", [1 << 20, 2 * 5 * 6])
def test_layer(block_entries, monkeypatch):
    """Values, and the gradient along one direction by a difference of the loop; of 5 queries at once, and of 2."""
    monkeypatch.setattr(additive, "BLOCK_ENTRIES", block_entries)
    rng, width, lengths = np.random.default_rng(0), 8, [5, 3]
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    graph, state = nnx.split(AdditiveAttention(units=6).build(width, 0.0, "float32", make))
    weights = jax.tree.map(lambda p: 0.5 * rng.standard_normal(p.shape), nnx.to_pure_dict(state))
    x, source = rng.standard_normal((2, 5, width)), rng.standard_normal((2, 5, width))
    segments = jnp.array([[0] * 5, [0] * 3 + [PADDING] * 2])

    def layer(weights, x, source):
        context = Context(index_BT=None, visibility=causal(Coordinates(5)), source=EncodedSource(source, segments))
        return nnx.merge(graph, weights)(x, context, None)[0]

    def by_hand(weights, x, source):
        return np.stack([loop(weights, *row) for row in zip(x, [s[:n] for s, n in zip(source, lengths)])])

    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (weights, x, source))
    np.testing.assert_allclose(jax.jit(layer)(*single), by_hand(weights, x, source), rtol=2e-4, atol=2e-5)
    towards = rng.standard_normal((2, 5, width))
    along = jax.jit(jax.grad(lambda *a: (layer(*a) * towards.astype(np.float32)).sum(), argnums=(0, 1, 2)))
    slopes = along(*single)
    step = jax.tree.map(lambda a: rng.standard_normal(a.shape), (weights, x, source))
    ahead, back = (
        by_hand(*jax.tree.map(lambda a, d: a + size * d, (weights, x, source), step)) for size in (1e-5, -1e-5)
    )
    expected = ((ahead - back) * towards).sum() / 2e-5
    got = sum(jax.tree.leaves(jax.tree.map(lambda a, b: float((a * b).sum()), slopes, step)))
    assert got == pytest.approx(expected, rel=1e-3)


def test_no_array_has_all_queries_and_all_units(monkeypatch):
    """Forward and backward, with the blocks of a long source."""
    monkeypatch.setattr(additive, "BLOCK_ENTRIES", 2 * 24 * 7)
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    graph, state = nnx.split(AdditiveAttention(units=7).build(8, 0.0, "float32", make))

    def loss(weights, x, source):
        context = Context(index_BT=None, visibility=causal(Coordinates(30)), source=EncodedSource(source, None))
        return nnx.merge(graph, weights)(x, context, None)[0].sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(nnx.to_pure_dict(state), jnp.ones((1, 30, 8)), jnp.ones((1, 24, 8))))
    assert "1,2,24,7]" in text
    assert "30,24" not in text
    assert "15,1,2,24" not in text


def test_decoding_equals_one_pass(recurrent, drawn, run, tokens, source, in_parts):
    config = recurrent()
    params = drawn(config)
    whole, _, _ = run(config, params, tokens, source=source)
    np.testing.assert_allclose(in_parts(config, params, tokens, source), whole, rtol=1e-4, atol=1e-5)


def test_packed_pairs_are_those_in_rows_of_their_own(recurrent, drawn, run, tokens, source, packed_pairs):
    config = recurrent()
    params, targets = drawn(config), tokens[:, :5]
    apart, _, _ = run(config, params, targets, source=Source.of_lengths(source.tokens_BS, np.array([9, 3])))
    packed = packed_pairs(config, params, targets, source)
    np.testing.assert_allclose(packed, apart, rtol=1e-4, atol=1e-5)


def test_taps(recurrent, drawn, run, tokens, source):
    names = ("cross_query", "cross_key", "cross_value", "cross_weights", "cross_heads", "cross_output")
    config = recurrent()
    taps = run(config, drawn(config), tokens, taps=names, source=source)[2]
    shapes = ((2, 2, 12, 1, 6), (2, 2, 9, 1, 6), (2, 2, 9, 1, 16), (2, 2, 1, 12, 9), (2, 2, 12, 1, 16), (2, 2, 12, 16))
    assert {name: x.shape for name, x in taps.items()} == dict(zip(names, shapes, strict=True))
    np.testing.assert_allclose(taps["cross_weights"].sum(-1), 1, rtol=1e-5)
    assert not taps["cross_weights"][:, 1, :, :, 6:].any()


def test_weights_are_dropped_in_training(recurrent, drawn, run, tokens, source):
    config = recurrent(dropout=Dropout(attention=0.5))
    params = drawn(config)
    one, other, same = (run(config, params, tokens, source=source, dropout_key=jax.random.key(i))[0] for i in (0, 1, 0))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(one, same)


def test_a_split_sequence_is_refused():
    class Split(Layout):
        def ways(self, axis):
            return 2 if axis == "query_sequence" else 1

    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    layer = AdditiveAttention().build(8, 0.0, "float32", make)
    context = Context(index_BT=None, visibility=causal(Coordinates(4)), layout=Split())
    with pytest.raises(UserError, match="AdditiveAttention does not split sequences; leave the mesh axis 'context'"):
        layer(jnp.ones((1, 4, 8)), context, None)


def test_operations():
    """By hand: width 8, 6 units, 5 targets, 7 tokens of the source."""
    expected = 2 * (8 * 6 * 12 + 35 * 6 + 35 * 8 + 8 * 8 * 5)
    assert AdditiveAttention(units=6).cost(8, 5, 7) == expected
    assert AdditiveAttention().cost(8, 5, 7) > expected
