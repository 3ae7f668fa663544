"""The attention layer."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from model.attention.grouped_query import GroupedQuery, GroupedQueryAttention, QKNorm
from model.context import Context
from model.kernels.visibility import Coordinates, causal
from model.norms import LayerNorm, RMSNorm
from model.parameters.maker import Normal, ParameterMaker
from model.positions.rotary import Rotary, rotary_table
from tests.model.kernels.reference import naive


def build(option, width=8, seed=0):
    """A layer with parameters at random, and those as float64 arrays by name."""
    layer = GroupedQueryAttention(
        option, width, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    )
    rng, weights = np.random.default_rng(seed), {}
    for name in ("query", "key", "value", "output", "gate"):
        for full in (name, f"{name}_bias"):
            if getattr(layer, full, None) is not None:
                weights[full] = rng.normal(0, 0.5, getattr(layer, full).shape)
                setattr(layer, full, nnx.Param(weights[full].astype(np.float32)))
        norm = getattr(layer, f"{name}_norm", None)
        if norm is not None and norm.scale is not None:
            weights[f"{name}_scale"] = rng.normal(1, 0.5, norm.scale.shape)
            norm.scale = nnx.Param(weights[f"{name}_scale"].astype(np.float32))
            if norm.bias is not None:
                weights[f"{name}_shift"] = rng.normal(0, 0.5, norm.bias.shape)
                norm.bias = nnx.Param(weights[f"{name}_shift"].astype(np.float32))
    return layer, weights


def rotate_by_hand(x, positions, theta=10_000.0):
    """Rotary positions of (T, N, H), pair by pair."""
    out, half = x.copy(), x.shape[-1] // 2
    for t, n, i in np.ndindex(len(positions), x.shape[1], half):
        angle = positions[t] * theta ** (-i / half)
        c, s = np.cos(angle), np.sin(angle)
        out[t, n, i] = c * x[t, n, i] - s * x[t, n, i + half]
        out[t, n, i + half] = s * x[t, n, i] + c * x[t, n, i + half]
    return out


def by_hand(option, w, x, positions, rotated):
    """The layer on one sequence (T, D)."""

    def project(name):
        return np.einsum("td,dnh->tnh", x, w[name]) + w.get(f"{name}_bias", 0)

    def normed(name, y):
        if name == "value":
            kind, axes = option.value_norm, -1
        elif option.qk_norm is None:
            return y
        else:
            kind, axes = option.qk_norm.norm, (-2, -1) if option.qk_norm.over == "projection" else -1
        if isinstance(kind, RMSNorm):
            y = y / np.sqrt((y**2).mean(axes, keepdims=True) + kind.epsilon)
        elif isinstance(kind, LayerNorm):
            y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + kind.epsilon)
        else:
            return y
        return y * w.get(f"{name}_scale", 1) + w.get(f"{name}_shift", 0)

    def clipped(y):
        return y if option.qkv_clip is None else np.minimum(np.maximum(y, -option.qkv_clip), option.qkv_clip)

    q, k = project("query"), project("key")
    v = normed("value", k if option.values_from_keys else project("value"))
    late = option.qk_norm is not None and option.qk_norm.after_positions
    if not late:
        q, k = normed("query", q), normed("key", k)
    q, k, v = clipped(q), clipped(k), clipped(v)
    if rotated:
        q, k = rotate_by_hand(q, positions), rotate_by_hand(k, positions)
    if late:
        q, k = normed("query", q), normed("key", k)
    mask = np.tril(np.ones((len(x), len(x)), bool))
    scale = option.scale or 1 / np.sqrt(q.shape[-1])
    y, _ = naive(q[None], k[None], v[None], mask[None], scale, option.logit_softcap)
    if option.output_gate == "head":
        y = y / (1 + np.exp(-x @ w["gate"] - w.get("gate_bias", 0)))[..., None]
    elif option.output_gate == "channel":
        y = y / (1 + np.exp(-project("gate")))
    return np.einsum("tnh,nhd->td", y[0], w["output"]) + w.get("output_bias", 0)


@pytest.mark.parametrize(
    "option",
    [
        GroupedQuery(num_heads=2),
        GroupedQuery(num_heads=2, qkv_bias=True, output_bias=True),
        GroupedQuery(num_heads=2, qkv_bias=True, scale=0.2, output_gate="head"),
        GroupedQuery(num_heads=2, output_gate="head", gate_bias=True),
        GroupedQuery(num_heads=4, num_kv_heads=2, output_bias=True, output_gate="channel"),
        GroupedQuery(num_heads=4, num_kv_heads=2, output_gate="channel", gate_bias=True),
        GroupedQuery(num_heads=4, num_kv_heads=2, qk_norm=QKNorm(norm=LayerNorm(bias=False), over="each_head")),
        GroupedQuery(num_heads=4, num_kv_heads=2, qk_norm=QKNorm(over="projection")),
        GroupedQuery(num_heads=4, num_kv_heads=2, qkv_bias=True, qkv_clip=0.7),
        GroupedQuery(num_heads=2, head_dim=6, qk_norm=QKNorm(after_positions=True), qkv_clip=0.8),
        GroupedQuery(num_heads=4, num_kv_heads=2, qk_norm=QKNorm(over="projection"), qkv_clip=0.9),
        GroupedQuery(num_heads=2, head_dim=6, qk_norm=QKNorm(after_positions=True)),
        GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=QKNorm()),
        GroupedQuery(num_heads=4, num_kv_heads=2, value_norm=RMSNorm(scale="none"), qkv_clip=0.9),
        GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, values_from_keys=True),
        GroupedQuery(
            num_heads=4,
            num_kv_heads=2,
            qkv_bias=True,
            qk_norm=QKNorm(),
            value_norm=LayerNorm(),
            values_from_keys=True,
        ),
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
@pytest.mark.parametrize("rotated", [False, True])
def test_layer(option, rotated):
    layer, weights = build(option)
    x = np.random.default_rng(1).normal(size=(2, 5, 8))
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 3, 0]])
    context = Context(
        index_BT=np.arange(5)[None],
        rotary=rotary_table(Rotary(), positions, option.head_width(8)) if rotated else None,
        visibility=causal(Coordinates(5)),
    )
    got, cache = jax.jit(lambda x: layer(x, context, None))(x.astype(np.float32))
    assert cache is None
    for row in range(2):
        np.testing.assert_allclose(
            got[row], by_hand(option, weights, x[row], positions[row], rotated), rtol=2e-5, atol=2e-5
        )


@pytest.mark.parametrize("scale", [None, 0.2])
def test_scores_divided_by_the_number_of_the_layer(scale):
    option = GroupedQuery(num_heads=2, qkv_bias=True, scale=scale, scale_by_layer=True)
    layer, weights = build(option)
    x = np.random.default_rng(1).normal(size=(1, 5, 8))
    for number in range(3):
        context = Context(index_BT=np.arange(5)[None], layer=number, visibility=causal(Coordinates(5)))
        alone = dataclasses.replace(option, scale=(scale or 0.5) / (number + 1))
        expected = by_hand(alone, weights, x[0], np.arange(5), rotated=False)
        np.testing.assert_allclose(layer(x.astype(np.float32), context, None)[0][0], expected, rtol=2e-5, atol=2e-5)


def test_shapes_and_axes():
    layer, _ = build(
        GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, qkv_bias=True, output_bias=True, qk_norm=QKNorm())
    )
    fresh = GroupedQueryAttention(
        layer.option, 8, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    )
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
    fresh = GroupedQueryAttention(
        layer.option, 8, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    )
    scales = [fresh.query_norm.scale, fresh.key_norm.scale]
    assert [scale.shape for scale in scales] == shapes
    assert [scale.get_metadata()["spec"].axes for scale in scales] == axes


def test_widths_with_none_resolved():
    assert GroupedQuery(num_heads=4).kv_heads == 4
    assert GroupedQuery(num_heads=4, num_kv_heads=1).kv_heads == 1
    assert GroupedQuery(num_heads=4).head_width(32) == 8
    assert GroupedQuery(num_heads=4, head_dim=5).head_width(32) == 5
