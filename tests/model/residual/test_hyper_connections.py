"""Hyper-connections against their equations, and against pre-norm, which they equal at initialization."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.context import Context
from model.cost import count_parameters, forward_flops
from model.errors import UserError
from model.layers import Except
from model.layout import Layout
from model.options.tree import check
from model.residual import HyperConnections, Multipliers, PreNorm
from model.residual.hyper_connections import Dynamic
from model.stack import empty_caches
from model.transformer import forward, init, specs
from model.vocabulary.multi_token import MultiToken
from tests.tiers import representatives

STATIC = HyperConnections(streams=3, dynamic=None)
DYNAMIC = HyperConnections(streams=3, dynamic=Dynamic(scale=0.5))


def by_hand(p, streams, sublayer, name, norm):
    """Equation 2 for one token: H (n, D) to H'; p holds the weights of all sublayers."""
    read, passed, write = (p[f"{name}_{part}"].copy() for part in ("read", "pass", "write"))
    if f"{name}_dynamic" in p:
        scale = p[f"{name}_dynamic_norm"]["scale"]
        for k, h in enumerate(streams):
            updates = np.tanh((h / np.sqrt((h * h).mean() + 1e-6) * scale) @ p[f"{name}_dynamic"])
            read[k] += p[f"{name}_mix_scale"] * updates[0]
            passed[k] += p[f"{name}_mix_scale"] * updates[1:-1]
            write[k] += p[f"{name}_write_scale"] * updates[-1]
    y = sublayer(norm(sum(weight * h for weight, h in zip(read, streams, strict=True))))
    n = len(streams)
    return np.stack([sum(passed[j, k] * streams[j] for j in range(n)) + write[k] * y for k in range(n)])


@pytest.mark.parametrize("residual", [STATIC, DYNAMIC], ids=repr)
def test_layer(small, stood_in, residual):
    block = stood_in(small(residual=residual, multipliers=Multipliers(residual=0.7), layer_scale=2.0), before=1)
    rng, p = np.random.default_rng(0), {}
    for name, part in vars(block.residual).items():
        if hasattr(part, "get_metadata"):
            part[...] = p[name] = rng.normal(size=part.shape).astype(np.float32)
    for name in ("mixer", "ffn") if residual.dynamic else ():
        scale = getattr(block.residual, f"{name}_dynamic_norm").scale
        scale[...] = rng.normal(size=16).astype(np.float32)
        p[f"{name}_dynamic_norm"] = {"scale": np.asarray(scale[...], np.float64)}
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
    stream = rng.normal(size=(2, 5, 3, 16)).astype(np.float32)
    got, _ = jax.jit(lambda x: block(x, Context(index_BT=None), None))(stream)
    expected = stream.astype(np.float64)
    for row in expected.reshape(-1, 3, 16):
        row[:] = by_hand(p, row, lambda h: 0.7 * p["mixer_gain"] * np.sin(h), "mixer", lambda h: 2 * h + 1)
        row[:] = by_hand(p, row, lambda h: 0.7 * p["ffn_gain"] * np.cos(h), "ffn", lambda h: 3 * h - 1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_streams_begin_alike_and_the_logits_read_their_sum():
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 12)
    streams = STATIC.enter(x)
    np.testing.assert_array_equal(streams, np.stack([x, x, x], axis=2))
    np.testing.assert_array_equal(STATIC.leave(streams), 3 * x)


@pytest.mark.parametrize("dynamic", [None, Dynamic()], ids=repr)
def test_weights_start_as_the_paper_says(small, dynamic):
    config = small(residual=HyperConnections(streams=3, dynamic=dynamic), num_layers=4)
    p = jax.jit(lambda: init(config, jax.random.key(0))["blocks"]["residual"])()
    eye = np.eye(3)
    np.testing.assert_array_equal(p["mixer_read"], eye[[0, 2, 1, 0]])  # of sublayers 0, 2, 4, 6 modulo 3
    np.testing.assert_array_equal(p["ffn_read"], eye[[1, 0, 2, 1]])
    np.testing.assert_array_equal(p["ffn_pass"], np.stack([eye] * 4))
    np.testing.assert_array_equal(p["ffn_write"], np.ones((4, 3)))
    assert ("ffn_dynamic" in p) == (dynamic is not None)
    if dynamic:
        assert not p["ffn_dynamic"].any()
        np.testing.assert_array_equal(p["ffn_mix_scale"], np.full(4, np.float32(0.01)))


def by_the_appendix(p, streams, sublayer, name, norm):
    """Appendix J for one token: A_m beside A_r in one matrix (n, n + 1), which is transposed and multiplied."""
    alpha = np.concatenate([p[f"{name}_read"][:, None], p[f"{name}_pass"]], axis=1)
    beta, dynamic = p[f"{name}_write"], p[f"{name}_dynamic"]
    normed = streams / np.sqrt((streams**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}_dynamic_norm"]["scale"]
    alpha = alpha + p[f"{name}_mix_scale"] * np.tanh(normed @ dynamic[:, :-1])
    beta = beta + p[f"{name}_write_scale"] * np.tanh(normed @ dynamic[:, -1])
    mixed = alpha.T @ streams
    return np.outer(beta, sublayer(norm(mixed[0]))) + mixed[1:]


def test_the_equations_are_the_algorithm_of_the_appendix():
    rng, n, width = np.random.default_rng(0), 3, 16
    shapes = {
        "read": (n,),
        "pass": (n, n),
        "write": (n,),
        "dynamic": (width, n + 2),
        "mix_scale": (),
        "write_scale": (),
    }
    p = {f"ffn_{name}": rng.normal(size=shape) for name, shape in shapes.items()}
    p["ffn_dynamic_norm"] = {"scale": rng.normal(size=width)}
    streams = rng.normal(size=(n, width))
    ways = [way(p, streams, np.cos, "ffn", lambda h: 3 * h - 1) for way in (by_hand, by_the_appendix)]
    np.testing.assert_allclose(*ways, rtol=1e-12)


def test_weight_decay_takes_the_dynamic_part_and_spares_the_static_one(small):
    of_layer = specs(small(residual=HyperConnections()))["blocks"]["residual"]
    decayed = {name for name, spec in of_layer.items() if "norm" not in name and spec.traits.weight_decay}
    assert decayed == {f"{i}_{part}" for i in ("mixer", "ffn") for part in ("dynamic", "mix_scale", "write_scale")}
    assert {name.partition("_")[2] for name in of_layer.keys() - decayed} == {
        "read",
        "pass",
        "write",
        "norm",
        "dynamic_norm",
    }


def test_layers_that_differ_are_numbered_through(small):
    """Sublayers 0 and 1, 2, 3 and 4, 5: every second layer has only one sublayer."""
    other = Except(layers="1::2", mixer=GroupedQuery(num_heads=2), ffn=None)
    config = small(residual=STATIC, num_layers=4, exceptions=(other,))
    blocks = jax.jit(lambda: init(config, jax.random.key(0))["blocks"])()
    np.testing.assert_array_equal(blocks["0"]["residual"]["mixer_read"], np.eye(3)[[0, 0]])
    np.testing.assert_array_equal(blocks["0"]["residual"]["ffn_read"], np.eye(3)[[1, 1]])
    np.testing.assert_array_equal(blocks["1"]["residual"]["mixer_read"], np.eye(3)[[2, 2]])


@pytest.mark.parametrize("dynamic", [None, Dynamic()], ids=repr)
def test_one_stream_is_pre_norm_at_first(small, drawn, run, tokens, dynamic):
    plain, hyper = small(), small(residual=HyperConnections(streams=1, dynamic=dynamic))
    params = drawn(plain)
    started = jax.jit(lambda: init(hyper, jax.random.key(0)))()
    started["blocks"] |= {"mixer": params["blocks"]["mixer"], "ffn": params["blocks"]["ffn"]}
    started["blocks"]["residual"] |= params["blocks"]["residual"]
    started |= {name: params[name] for name in ("embedding", "final_norm")}
    assert plain.residual == PreNorm()
    expected, got = run(plain, params, tokens)[0], run(hyper, started, tokens)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("residual", representatives([STATIC, DYNAMIC], DYNAMIC), ids=repr)
def test_scanned_written_out_recomputed_and_cached(small, drawn, run, tokens, residual):
    config = small(residual=residual, num_layers=3)
    params = drawn(config)
    full, _, taps = run(config, params, tokens, taps=("block_output",))
    assert taps["block_output"].shape == (3, 2, 12, 3, 16)
    written_out = dataclasses.replace(config, scan_layers=False)
    np.testing.assert_allclose(run(written_out, params, tokens)[0], full, rtol=1e-4, atol=1e-4)
    gradient = lambda c: jax.jit(jax.grad(lambda p: jnp.sin(forward(c, p, tokens).logits_BTV).mean()))(params)  # noqa: E731
    once, again = gradient(config), gradient(dataclasses.replace(config, remat="full"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), once, again)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(once["blocks"]["residual"]))
    cache, parts = empty_caches(config, 2, 12), []
    for begin, size in ((0, 7), (7, 1), (8, 4)):
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (2, size))
        some, cache, _ = run(config, params, tokens[:, begin : begin + size], positions_BT=positions, cache=cache)
        parts.append(some)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, rtol=1e-4, atol=1e-4)


def test_streams_are_laid_over_the_mesh_one_beside_the_other(small, stood_in):
    placed = []

    class Noting(Layout):
        def constrain(self, x, axes):
            placed.append((axes, x.shape))
            return x

    context = Context(index_BT=None, layout=Noting())
    jax.eval_shape(lambda x: stood_in(small(residual=STATIC))(x, context, None)[0], jnp.zeros((2, 5, 3, 16)))
    streams = [(axes, shape) for axes, shape in placed if len(shape) == 4]
    assert streams == [(("batch", "sequence", None, "embed"), (2, 5, 3, 16))] * 2


def test_modules_that_look_ahead_have_streams_of_their_own(small, drawn, tokens):
    config = small(residual=DYNAMIC, multi_token=MultiToken())
    counted = {"weights_BT": jnp.ones(tokens.shape), "targets_BT": jnp.asarray(tokens)}
    output = forward(config, drawn(config), tokens, **counted)
    assert np.isfinite(output.losses["multi_token_loss"])
    assert output.logits_BTV.shape == (2, 12, 17)


def test_cost_is_counted(small):
    plain, static, dynamic = (small(residual=r) for r in (PreNorm(), STATIC, DYNAMIC))
    mixing = 2 * 12 * 16 * (3 + 9 + 3)  # multiplications and additions of 12 tokens: read, passed on, written
    assert forward_flops(static, 12) - forward_flops(plain, 12) == 2 * 2 * mixing  # two layers of two sublayers
    assert forward_flops(dynamic, 12) - forward_flops(static, 12) == 2 * 2 * 2 * 12 * 3 * 16 * 5
    assert count_parameters(static).total - count_parameters(plain).total == 2 * 2 * (3 + 9 + 3)
    assert count_parameters(dynamic).total - count_parameters(static).total == 2 * 2 * (16 + 16 * 5 + 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (HyperConnections(streams=0), "residual.streams: must be at least 1, got 0"),
        (HyperConnections(dynamic=Dynamic(scale=0.0)), "residual.dynamic.scale: must be above 0, or dynamic=None"),
    ],
)
def test_what_is_refused(small, option, message):
    with pytest.raises(UserError, match=message):
        check(small(residual=option), "")
