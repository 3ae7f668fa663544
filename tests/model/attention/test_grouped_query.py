"""The attention layer, and the kernel behind it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.attention import patterns as masks
from model.attention.grouped_query import Attention, GroupedQuery, QKNorm
from model.dropout import drop
from model.kernels.blocks import Scoring, attend, attention_weights
from model.norms import LayerNorm, RMSNorm
from model.parameters import Normal, ParameterMaker
from model.positions.rotary import Rotary, rotary_table
from model.taps import Context


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


def naive(q, k, v, mask, scale, softcap=None):
    """One query, one head at a time, in float64: the heads' outputs and the weights (B, N, T, S)."""
    (b, t, n, h), (s, kv) = q.shape, k.shape[1:3]
    mask = np.broadcast_to(mask, (b, t, s))
    out, weights = np.zeros((b, t, n, h)), np.zeros((b, n, t, s))
    for row, head, query in np.ndindex(b, n, t):
        shared = head // (n // kv)  # neighbouring query heads share a key head
        seen = np.flatnonzero(mask[row, query])
        scores = np.array([scale * q[row, query, head] @ k[row, key, shared] for key in seen])
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        weights[row, head, query, seen] = softmax(scores)
        out[row, query, head] = weights[row, head, query] @ v[row, :, shared]
    return out, weights


def heads(n, kv, b=2, t=4, s=5, h=6, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(b, t, n, h), (b, s, kv, h), (b, s, kv, h)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def random_mask(b, t=4, s=5):
    mask = np.random.default_rng(9).random((b, t, s)) < 0.5
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize(("n", "kv"), [(4, 4), (4, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attend(n, kv, softcap):
    q, k, v = heads(n, kv)
    mask, scoring = random_mask(2), Scoring(0.4, softcap)
    expected, weights = naive(q, k, v, mask, 0.4, softcap)
    np.testing.assert_allclose(attend(q, k, v, mask, scoring), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(attention_weights(q, k, mask, scoring), weights, rtol=1e-5, atol=1e-6)


def test_attend_with_one_mask_for_all_rows():
    q, k, v = heads(4, 2)
    mask = random_mask(1)
    expected = naive(q, k, v, mask, 1.0)[0]
    np.testing.assert_allclose(attend(q, k, v, mask, Scoring(1.0)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_derivative_is_that_of_the_equation(softcap, rate):
    """Against autodiff of softmax, dropout and product written out; one query sees no key at all."""
    q, k, v = heads(6, 2)
    mask, scoring, key = random_mask(2), Scoring(0.4, softcap), jax.random.key(5)
    mask[1, 2] = False

    def plain(q, k, v):
        weights = attention_weights(q, k, mask, scoring)
        if rate:
            grouped = drop(weights.reshape(2, 2, 3, 4, 5), rate, jax.random.fold_in(key, 0))
            weights = grouped.reshape(weights.shape)
        return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, 3, axis=2))

    ours = lambda q, k, v: attend(q, k, v, mask, scoring, dropout=rate, dropout_key=key)  # noqa: E731
    (y, pull), (expected, plain_pull) = jax.vjp(ours, q, k, v), jax.vjp(plain, q, k, v)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(pull(jnp.cos(y)), plain_pull(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_sink_takes_part_in_the_softmax_and_has_no_value(rate):
    """Against one key more, whose products with queries are the sinks and whose value is zero: values and gradients."""
    q, k, v = heads(6, 2)
    mask, key = random_mask(2), jax.random.key(5)
    mask[1, 2] = False
    sink = np.array([0.5, -2.0, 9.0, 0.0, -0.3, 40.0], np.float32)

    def plain(q, k, v, sink):
        repeated = jnp.repeat(k, 3, axis=2)
        scores = jnp.where(mask[:, None], 0.4 * jnp.einsum("btnh,bsnh->bnts", q, repeated), -jnp.inf)
        scores = jnp.concatenate([scores, jnp.broadcast_to(sink[None, :, None, None], (2, 6, 4, 1))], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1)[..., :-1]
        if rate:
            dropped = drop(weights.reshape(2, 2, 3, 4, 5), rate, jax.random.fold_in(key, 0))
            weights = dropped.reshape(weights.shape)
        return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, 3, axis=2))

    def ours(q, k, v, sink):
        return attend(q, k, v, mask, Scoring(0.4), None, sink, dropout=rate, dropout_key=key)

    (y, pull), (expected, plain_pull) = jax.vjp(ours, q, k, v, sink), jax.vjp(plain, q, k, v, sink)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert not np.any(y[1, 2])  # the query that sees no key
    for got, want in zip(pull(jnp.cos(y)), plain_pull(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    if not rate:
        weights = attention_weights(q, k, mask, Scoring(0.4), None, sink)
        np.testing.assert_allclose(jnp.einsum("bnts,bsnh->btnh", weights, np.repeat(v, 3, 2)), expected, atol=1e-5)


def test_dropout_needs_a_key_and_a_rate():
    q, k, v = heads(2, 2)
    mask, key = random_mask(2), jax.random.key(0)
    plain = attend(q, k, v, mask, Scoring(1.0))
    np.testing.assert_array_equal(attend(q, k, v, mask, Scoring(1.0), dropout=0.5), plain)
    np.testing.assert_array_equal(attend(q, k, v, mask, Scoring(1.0), dropout_key=key), plain)
    assert np.abs(attend(q, k, v, mask, Scoring(1.0), dropout=0.5, dropout_key=key) - plain).max() > 0.1


def test_nothing_of_the_size_of_the_weights_is_kept_for_the_backward_pass():
    q, k, v = heads(2, 1, t=7, s=11)
    _, pull = jax.vjp(lambda q, k, v: attend(q, k, v, random_mask(1, 7, 11), Scoring(1.0)), q, k, v)
    sizes = [x.shape for x in jax.tree.leaves(pull) if getattr(x, "dtype", None) == jnp.float32]
    assert sizes
    assert not any(shape[-2:] == (7, 11) for shape in sizes)


def test_huge_scores_stay_finite_and_hidden_keys_weigh_nothing():
    q, k, v = heads(2, 2)
    q, hidden = 1e4 * q, 1e4 * np.ones_like(v)
    mask = np.broadcast_to(np.arange(5) < 3, (2, 4, 5))
    seen = attend(q, k, v, mask, Scoring(1.0))
    v[:, 3:] = hidden[:, 3:]
    k[:, 3:] = hidden[:, 3:]
    np.testing.assert_array_equal(attend(q, k, v, mask, Scoring(1.0)), seen)
    assert np.isfinite(seen).all()


def test_softmax_is_taken_in_the_reduction_dtype():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in heads(2, 2, s=64, seed=3))
    mask = np.ones((1, 4, 64), bool)
    exact = naive(*(np.asarray(x.astype(jnp.float32)) for x in (q, k, v)), mask, 1.0)[1]
    errors = {}
    for reductions in ("float32", "bfloat16"):
        scoring = Scoring(1.0, reductions=reductions)
        weights = attention_weights(q, k, mask, scoring)
        assert attend(q, k, v, mask, scoring).dtype == weights.dtype == jnp.bfloat16
        errors[reductions] = np.abs(weights.astype(jnp.float32) - exact)[exact > 1e-3] / exact[exact > 1e-3]
    assert errors["float32"].max() < 0.005  # one rounding of the weights to eight bits
    assert errors["bfloat16"].max() > 0.02


@pytest.mark.parametrize("length", [63, 130, 270])
def test_causal_blocks_equal_the_whole(length):
    """Long causal sequences are taken in blocks of queries: the same values and gradients, fewer products."""
    q, k, v = heads(2, 1, b=1, t=length, s=length, h=4)
    index = np.arange(length)[None]
    segments = (index >= 100).astype(np.int32)
    mask = masks.causal(index, index) & masks.same_segment(segments, segments)

    def loss(q, k, v, causal):
        y = attend(q, k, v, mask, Scoring(0.4, 3.0), causal=causal)
        return jnp.sum(jnp.sin(y)), y

    def pairs(causal):
        """Query-key pairs that the forward pass scores."""
        text = str(jax.make_jaxpr(lambda q, k, v: attend(q, k, v, mask, Scoring(0.4), causal=causal))(q, k, v))
        shapes = re.findall(r":f32\[1,1,2,(\d+),(\d+)\] = dot_general", text)
        return sum(int(t) * int(s) for t, s in shapes if int(s) != 4)

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    for whole, blocks in zip(*(jax.tree.leaves(run(q, k, v, causal)) for causal in (False, True)), strict=True):
        np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-5)
    assert pairs(False) == length**2
    if length < 128:
        assert pairs(True) == pairs(False)
    else:
        assert pairs(True) < 0.8 * pairs(False)


# ------------------------------------------------------------------------------------------------------ the layer


def build(option, width=8, seed=0):
    """A layer with parameters at random, and those as float64 arrays by name."""
    layer = Attention(option, width, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    rng, weights = np.random.default_rng(seed), {}
    for name in ("query", "key", "value", "output", "gate"):
        for full in (name, f"{name}_bias"):
            if getattr(layer, full, None) is not None:
                weights[full] = rng.normal(0, 0.5, getattr(layer, full).shape)
                setattr(layer, full, nnx.Param(weights[full].astype(np.float32)))
        norm = getattr(layer, f"{name}_norm", None)
        if norm is not None:
            weights[f"{name}_scale"] = rng.normal(1, 0.5, norm.scale.shape)
            norm.scale = nnx.Param(weights[f"{name}_scale"].astype(np.float32))
            if norm.bias is not None:
                weights[f"{name}_shift"] = rng.normal(0, 0.5, norm.bias.shape)
                norm.bias = nnx.Param(weights[f"{name}_shift"].astype(np.float32))
    return layer, weights


def turn(x, positions, theta=10_000.0):
    """Rotary positions of (T, N, H), pair by pair."""
    out, half = x.copy(), x.shape[-1] // 2
    for t, n, i in np.ndindex(len(positions), x.shape[1], half):
        angle = positions[t] * theta ** (-i / half)
        c, s = np.cos(angle), np.sin(angle)
        out[t, n, i] = c * x[t, n, i] - s * x[t, n, i + half]
        out[t, n, i + half] = s * x[t, n, i] + c * x[t, n, i + half]
    return out


def by_hand(option, w, x, positions, turned):
    """The layer on one sequence (T, D)."""

    def project(name):
        return np.einsum("td,dnh->tnh", x, w[name]) + w.get(f"{name}_bias", 0)

    def normed(name, y):
        if option.qk_norm is None:
            return y
        kind, axes = option.qk_norm.norm, (-2, -1) if option.qk_norm.over == "projection" else -1
        if isinstance(kind, RMSNorm):
            y = y / np.sqrt((y**2).mean(axes, keepdims=True) + kind.epsilon)
        elif isinstance(kind, LayerNorm):
            y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + kind.epsilon)
        return y * w.get(f"{name}_scale", 1) + w.get(f"{name}_shift", 0)

    q, k, v = project("query"), project("key"), project("value")
    late = option.qk_norm is not None and option.qk_norm.after_positions
    if not late:
        q, k = normed("query", q), normed("key", k)
    if turned:
        q, k = turn(q, positions), turn(k, positions)
    if late:
        q, k = normed("query", q), normed("key", k)
    mask = np.tril(np.ones((len(x), len(x)), bool))
    scale = option.scale or 1 / np.sqrt(q.shape[-1])
    y, _ = naive(q[None], k[None], v[None], mask[None], scale, option.logit_softcap)
    if option.output_gate == "head":
        y = y / (1 + np.exp(-x @ w["gate"]))[..., None]
    elif option.output_gate == "channel":
        y = y / (1 + np.exp(-np.einsum("td,dnh->tnh", x, w["gate"])))
    return np.einsum("tnh,nhd->td", y[0], w["output"]) + w.get("output_bias", 0)


@pytest.mark.parametrize(
    "option",
    [
        GroupedQuery(num_heads=2),
        GroupedQuery(num_heads=2, qkv_bias=True, output_bias=True),
        GroupedQuery(num_heads=2, qkv_bias=True, scale=0.2, output_gate="head"),
        GroupedQuery(num_heads=4, num_kv_heads=2, output_bias=True, output_gate="channel"),
        GroupedQuery(num_heads=4, num_kv_heads=2, qk_norm=QKNorm(norm=LayerNorm(bias=False), over="each_head")),
        GroupedQuery(num_heads=4, num_kv_heads=2, qk_norm=QKNorm(over="projection")),
        GroupedQuery(num_heads=2, head_dim=6, qk_norm=QKNorm(after_positions=True)),
        GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=QKNorm()),
        GroupedQuery(
            num_heads=4,
            num_kv_heads=1,
            qkv_bias=True,
            output_bias=True,
            qk_norm=QKNorm(norm=LayerNorm()),
            logit_softcap=0.5,
        ),
    ],
    ids=repr,
)
@pytest.mark.parametrize("turned", [False, True])
def test_layer(option, turned):
    layer, weights = build(option)
    x = np.random.default_rng(1).normal(size=(2, 5, 8))
    index = np.arange(5)[None]
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 3, 0]])
    context = Context(
        index_BT=index,
        rotary=rotary_table(Rotary(), positions, option.head_width(8)) if turned else None,
        mask_BTS=masks.causal(index, index),
    )
    got, cache = jax.jit(lambda x: layer(x, context, None))(x.astype(np.float32))
    assert cache is None
    for row in range(2):
        np.testing.assert_allclose(
            got[row], by_hand(option, weights, x[row], positions[row], turned), rtol=2e-5, atol=2e-5
        )


def test_shapes_and_axes():
    layer, _ = build(
        GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, qkv_bias=True, output_bias=True, qk_norm=QKNorm())
    )
    fresh = Attention(layer.option, 8, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    found = {}
    for name in ("query", "key", "value", "output", "query_bias", "key_bias", "value_bias", "output_bias"):
        found[name] = (getattr(fresh, name).shape, getattr(fresh, name).get_metadata()["spec"].axes)
    assert found == {
        "query": ((8, 4, 6), ("embed", "heads", "head_dim")),
        "key": ((8, 2, 6), ("embed", "kv_heads", "head_dim")),
        "value": ((8, 2, 6), ("embed", "kv_heads", "head_dim")),
        "output": ((4, 6, 8), ("heads", "head_dim", "embed")),
        "query_bias": ((4, 6), ("heads", "head_dim")),
        "key_bias": ((2, 6), ("kv_heads", "head_dim")),
        "value_bias": ((2, 6), ("kv_heads", "head_dim")),
        "output_bias": ((8,), ("embed",)),
    }
    scales = (fresh.query_norm.scale, fresh.key_norm.scale)
    assert [scale.get_metadata()["spec"].axes for scale in scales] == [("head_dim",)] * 2
    assert fresh.query_norm.scale.shape == (6,)


@pytest.mark.parametrize(
    ("over", "shapes", "axes"),
    [
        ("head", [(6,), (6,)], [("head_dim",), ("head_dim",)]),
        ("each_head", [(4, 6), (2, 6)], [("heads", "head_dim"), ("kv_heads", "head_dim")]),
        ("projection", [(4, 6), (2, 6)], [("heads", "head_dim"), ("kv_heads", "head_dim")]),
    ],
)
def test_shapes_and_axes_of_query_and_key_norms(over, shapes, axes):
    layer, _ = build(GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=QKNorm(over=over)))
    fresh = Attention(layer.option, 8, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    scales = [fresh.query_norm.scale, fresh.key_norm.scale]
    assert [scale.shape for scale in scales] == shapes
    assert [scale.get_metadata()["spec"].axes for scale in scales] == axes


def test_widths_with_none_resolved():
    assert GroupedQuery(num_heads=4).kv_heads == 4
    assert GroupedQuery(num_heads=4, num_kv_heads=1).kv_heads == 1
    assert GroupedQuery(num_heads=4).head_width(32) == 8
    assert GroupedQuery(num_heads=4, head_dim=5).head_width(32) == 5
