"""Cross-attention against loops in NumPy, in whole models: who sees whom, from a cache, in packed rows, on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.attention.grouped_query import QKNorm
from model.context import Context
from model.encoder.cross import CrossAttention
from model.encoder.source import PADDING, EncodedSource, Source
from model.kernels.visibility import Coordinates, causal
from model.parameters.maker import Normal, ParameterMaker
from model.positions.relative import RelativeBias
from model.residual import HyperConnections, Parallel, PostNorm
from model.transformer import forward
from tests.tiers import SWEEP, representatives

OPTIONS = [
    CrossAttention(num_heads=2),
    CrossAttention(
        num_heads=4, num_kv_heads=2, head_dim=3, qkv_bias=True, output_bias=True, qk_norm=QKNorm(), scale=0.3
    ),
]


def loop(option, weights, x, source):
    """One row: a query at a time, a head at a time, in float64."""
    n, group, h = option.num_heads, option.num_heads // option.kv_heads, option.head_width(x.shape[1])
    scale = h**-0.5 if option.scale is None else option.scale

    def heads(name, tokens):
        y = np.einsum("TD,DNH->TNH", tokens, weights[name])
        y = y + weights[f"{name}_bias"] if option.qkv_bias else y
        if option.qk_norm is not None and name != "value":
            y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}_norm"]["scale"]
        return y

    q, k, v = heads("query", x), heads("key", source), heads("value", source)
    y = np.zeros_like(x)
    for t in range(len(x)):
        for head in range(n):
            scores = np.array([scale * q[t, head] @ k[s, head // group] for s in range(len(source))])
            weight = np.exp(scores - scores.max())
            mean = sum(w * v[s, head // group] for s, w in enumerate(weight / weight.sum()))
            y[t] += mean @ weights["output"][head]
    return y + weights["output_bias"] if option.output_bias else y


@pytest.mark.parametrize("option", representatives(OPTIONS, OPTIONS[1]))
def test_layer(option):
    """Values, and the gradient along one direction by a difference of the loop."""
    rng, width, lengths = np.random.default_rng(0), 8, [5, 3]
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    graph, state = nnx.split(option.build(width, 0.0, "float32", make))
    weights = jax.tree.map(lambda p: 0.5 * rng.standard_normal(p.shape), nnx.to_pure_dict(state))
    x, source = rng.standard_normal((2, 4, width)), rng.standard_normal((2, 5, width))
    segments = jnp.array([[0] * 5, [0] * 3 + [PADDING] * 2])

    def layer(weights, x, source):
        context = Context(index_BT=None, visibility=causal(Coordinates(4)), source=EncodedSource(source, segments))
        return nnx.merge(graph, weights)(x, context, None)[0]

    def by_hand(weights, x, source):
        return np.stack([loop(option, weights, *row) for row in zip(x, [s[:n] for s, n in zip(source, lengths)])])

    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (weights, x, source))
    np.testing.assert_allclose(jax.jit(layer)(*single), by_hand(weights, x, source), rtol=2e-4, atol=2e-5)
    towards = rng.standard_normal((2, 4, width))
    along = jax.jit(jax.grad(lambda *a: (layer(*a) * towards.astype(np.float32)).sum(), argnums=(0, 1, 2)))
    slopes = along(*single)
    step = jax.tree.map(lambda a: rng.standard_normal(a.shape), (weights, x, source))
    ahead, back = (
        by_hand(*jax.tree.map(lambda a, d: a + size * d, (weights, x, source), step)) for size in (1e-5, -1e-5)
    )
    expected = ((ahead - back) * towards).sum() / 2e-5
    got = sum(jax.tree.leaves(jax.tree.map(lambda a, b: float((a * b).sum()), slopes, step)))
    assert got == pytest.approx(expected, rel=1e-3)


def test_who_sees_whom(pair, drawn, tokens, source):
    """By gradient: targets see earlier targets and all of their source; sources see each other; nobody sees padding."""
    config = dataclasses.replace(pair(), scan_layers=False)
    table = drawn(config)["embedding"]["table"]
    params, targets = drawn(config), jnp.asarray(tokens[:, :6])
    sizes = targets.size

    def at(ids_B, number, extra):  # a vector of zeros for each token, added to its embedding by one more row for each
        return 17 + number + jnp.arange(extra).reshape(ids_B.shape)

    wide = dataclasses.replace(config, vocab_size=17 + sizes + source.tokens_BS.size)
    rows = jnp.concatenate([table, table[targets.ravel()], table[source.tokens_BS.ravel()]])
    targets, read = at(targets, 0, sizes), at(source.tokens_BS, sizes, source.tokens_BS.size)

    def stream(table, row, t):
        changed = params | {"embedding": {"table": table}}
        out = forward(wide, changed, targets, source=dataclasses.replace(source, tokens_BS=read))
        return jnp.sum(jnp.sin(out.stream_BTD[row, t]))

    slope = jax.jit(jax.grad(stream))
    for row, t, length in ((0, 2, 9), (1, 4, 6)):
        seen = np.abs(np.asarray(slope(rows, row, t))[17:]).max(1) > 1e-7
        of_targets, of_source = seen[:sizes].reshape(2, 6), seen[sizes:].reshape(2, 9)
        assert of_targets[row].tolist() == [i <= t for i in range(6)]
        assert of_source[row].tolist() == [i < length for i in range(9)]
        assert not of_targets[1 - row].any()
        assert not of_source[1 - row].any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"residual": PostNorm(), "position": RelativeBias(shared=True)}, marks=SWEEP),
        pytest.param({"residual": Parallel(), "scan_layers": False}, marks=SWEEP),
        {"residual": HyperConnections(streams=2)},
    ],
    ids=["pre-norm", "post-norm", "parallel", "hyper-connections"],
)
def test_decoding_equals_one_pass(changes, pair, drawn, run, tokens, source, in_parts):
    """The first pass reads the source; the cache has more room than it needs."""
    config = pair(**changes)
    params = drawn(config)
    whole, _, _ = run(config, params, tokens, source=source)
    np.testing.assert_allclose(in_parts(config, params, tokens, source), whole, rtol=1e-4, atol=1e-5)


def test_packed_pairs_are_those_in_rows_of_their_own(pair, drawn, run, tokens, source, packed_pairs):
    config = pair()
    params, targets = drawn(config), tokens[:, :5]
    apart, _, _ = run(config, params, targets, source=source)
    three, _, _ = run(config, params, targets, source=Source.of_lengths(source.tokens_BS, np.array([9, 3])))
    packed = packed_pairs(config, params, targets, source)
    np.testing.assert_allclose(packed[0], apart[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(packed[1], three[1], rtol=1e-4, atol=1e-5)


def test_a_query_that_sees_no_source_has_finite_gradients(pair, drawn, tokens, source):
    config = pair()
    nothing = dataclasses.replace(source, segment_ids_BS=jnp.full((2, 9), PADDING))
    loss = lambda params: jnp.sum(forward(config, params, tokens, source=nothing).logits_BTV)  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(jax.grad(loss))(drawn(config))))


def test_taps(pair, drawn, run, tokens, source):
    names = ("cross_query", "cross_key", "cross_value", "cross_weights", "cross_heads", "cross_output")
    taps = run(pair(), drawn(pair()), tokens, taps=names, source=source)[2]
    heads, keys = (2, 2, 12, 4, 4), (2, 2, 9, 2, 4)
    shapes = dict(zip(names, (heads, keys, keys, (2, 2, 4, 12, 9), heads, (2, 2, 12, 16)), strict=True))
    assert {name: x.shape for name, x in taps.items()} == shapes
    np.testing.assert_allclose(taps["cross_weights"].sum(-1), 1, rtol=1e-5)
    assert not taps["cross_weights"][:, 1, :, :, 6:].any()
