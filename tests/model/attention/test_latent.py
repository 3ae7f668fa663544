import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.attention.latent import Latent, LatentAttention
from model.context import Context
from model.errors import UserError
from model.kernels.visibility import Coordinates, causal
from model.norms import LayerNorm, RMSNorm
from model.options.tree import check
from model.parameters.maker import Normal, ParameterMaker
from model.positions.absolute import NoPositions
from model.positions.rotary import Rotary, rotary_table
from tests.tiers import representatives

PLAIN = Latent(num_heads=3, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6)
OPTIONS = [
    PLAIN,
    Latent(num_heads=2, kv_rank=3, query_rank=7, head_dim=6, rotary_head_dim=4, value_head_dim=2, scale=0.2),
    Latent(num_heads=2, kv_rank=4, query_rank=3, head_dim=2, rotary_head_dim=2, value_head_dim=2, norm=LayerNorm()),
]


def build(option, width=8):
    """A layer with parameters at random, and those as float64 arrays by name."""
    layer = LatentAttention(option, width, 0.0, "float32", ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    rng, w = np.random.default_rng(0), {}
    for name in ("query_down", "query", "kv_down", "rotary_key", "key_up", "value_up", "output"):
        if getattr(layer, name) is not None:
            w[name] = rng.normal(0, 0.5, getattr(layer, name).shape)
            setattr(layer, name, nnx.Param(w[name].astype(np.float32)))
    for name in ("query_norm", "kv_norm"):
        norm = getattr(layer, name)
        for part in ("scale", "bias"):
            if norm is not None and getattr(norm, part) is not None:
                w[f"{name}.{part}"] = rng.normal(1, 0.5, getattr(norm, part).shape)
                setattr(norm, part, nnx.Param(w[f"{name}.{part}"].astype(np.float32)))
    return layer, w


def by_hand(option, w, x, rotated):
    """The layer on one sequence (T, D): every token's key and value for every head, one pair at a time."""

    def norm(name, v):
        if isinstance(option.norm, RMSNorm):
            v = v / np.sqrt((v**2).mean() + option.norm.epsilon)
        else:
            v = (v - v.mean()) / np.sqrt(v.var() + option.norm.epsilon)
        return v * w[f"{name}.scale"] + w.get(f"{name}.bias", 0)

    def rotate_by_hand(v, t):
        half, out = len(v) // 2, v.copy()
        for i in range(half if rotated else 0):
            z = complex(v[i], v[i + half]) * np.exp(1j * t * 10_000.0 ** (-i / half))
            out[i], out[i + half] = z.real, z.imag
        return out

    latents = [norm("kv_norm", v @ w["kv_down"]) for v in x]
    shared = [rotate_by_hand(v @ w["rotary_key"], t) for t, v in enumerate(x)]
    low = [norm("query_norm", v @ w["query_down"]) if "query_down" in w else v for v in x]
    scale = option.scale or (option.head_dim + option.rotary_head_dim) ** -0.5
    out = np.zeros((len(x), w["output"].shape[-1]))
    for t in range(len(x)):
        for head in range(option.num_heads):
            q = low[t] @ w["query"][:, head]
            q = np.concatenate([q[: option.head_dim], rotate_by_hand(q[option.head_dim :], t)])
            keys = [np.concatenate([latents[s] @ w["key_up"][:, head], shared[s]]) for s in range(t + 1)]
            weights = np.exp([scale * q @ k for k in keys])
            values = [latents[s] @ w["value_up"][:, head] for s in range(t + 1)]
            out[t] += sum(p * v for p, v in zip(weights / weights.sum(), values, strict=True)) @ w["output"][head]
    return out


def context(option, length, slots=None, begin=0, rotated=True):
    index = begin + np.broadcast_to(np.arange(length), (2, length))
    table = rotary_table(Rotary() if rotated else NoPositions(), index, option.rotary_head_dim)
    visibility = causal(Coordinates(length, index=index), Coordinates(slots or length))
    return Context(index_BT=index, rotary=table, visibility=visibility)


X = np.random.default_rng(1).normal(size=(2, 5, 8))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("option", OPTIONS, ids=range(3))
def test_layer(option, rotated):
    layer, w = build(option)
    got, cache = jax.jit(lambda x: layer(x, context(option, 5, rotated=rotated), None))(X.astype(np.float32))
    assert cache is None
    for row in range(2):
        np.testing.assert_allclose(got[row], by_hand(option, w, X[row], rotated), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("steps", representatives([[5], [1] * 5, [2, 3]], [1] * 5, [2, 3]), ids=str)
@pytest.mark.parametrize("option", OPTIONS, ids=range(3))
def test_the_absorbed_form_is_the_written_out_one(option, steps):
    layer, _ = build(option)
    x = jnp.asarray(X, jnp.float32)
    expected, _ = jax.jit(lambda x: layer(x, context(option, 5), None))(x)
    step = jax.jit(lambda x, begin, cache: layer(x, context(option, x.shape[1], 9, begin), cache))
    cache, parts, begin = option.empty_cache(8, 2, 9, "float32"), [], 0
    for size in steps:
        y, cache = step(x[:, begin : begin + size], begin, cache)
        parts.append(y)
        begin += size
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected, rtol=1e-5, atol=1e-5)
    assert cache.arrays["latent"].shape == (2, 1, 9, option.kv_rank + option.rotary_head_dim)
    assert not np.any(cache.arrays["latent"][:, :, 5:])


def test_shapes_and_axes():
    layer, _ = build(OPTIONS[1])
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "float32")
    fresh = LatentAttention(layer.option, 8, 0.0, "float32", make)
    names = ("query_down", "query", "kv_down", "rotary_key", "key_up", "value_up", "output")
    assert {name: (getattr(fresh, name).shape, getattr(fresh, name).get_metadata()["spec"].axes) for name in names} == {
        "query_down": ((8, 7), ("embed", "rank")),
        "query": ((7, 2, 10), ("rank", "heads", "head_dim")),
        "kv_down": ((8, 3), ("embed", "rank")),
        "rotary_key": ((8, 4), ("embed", "head_dim")),
        "key_up": ((3, 2, 6), ("rank", "heads", "head_dim")),
        "value_up": ((3, 2, 2), ("rank", "heads", "head_dim")),
        "output": ((2, 2, 8), ("heads", "head_dim", "embed")),
    }
    plain, _ = build(PLAIN)
    assert plain.query.shape == (8, 3, 6)
    assert plain.query_norm is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_rank": 0}, "mixer.kv_rank: must be at least 1, got 0"),
        ({"query_rank": 0}, "mixer.query_rank: must be at least 1, or None"),
        ({"scale": -1.0}, "mixer.scale: must be above 0"),
        ({"rotary_head_dim": 3}, "position: .* the head width must be even, got 3"),
    ],
)
def test_what_is_refused(small, changes, message):
    with pytest.raises(UserError, match=message):
        check(small(mixer=dataclasses.replace(PLAIN, **changes)))
