"""Linear biases (ALiBi): their slopes, the kernels that add them, a model that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import Chunked, SlidingWindow
from model.kernels import attend, attention_weights
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.dropped import drop_weights, keys_of_heads
from model.layers import Except
from model.positions.absolute import NoPositions
from model.positions.alibi import ALiBi, LinearBias, slopes
from model.transformer import forward


@pytest.mark.parametrize(
    ("num_heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (4, [2, 4, 6, 8]),
        (6, [2, 4, 6, 8, 1, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (16, [0.5 * n for n in range(1, 17)]),
    ],
)
def test_slopes(num_heads, exponents):
    """The last slope is 2^-8 for a power of two; otherwise, every second slope of twice the power fills up the list."""
    np.testing.assert_allclose(slopes(num_heads), [2.0**-e for e in exponents], rtol=1e-12)


def naive(q, k, v, mask, positions, scale, softcap=None):
    """Computes one query of one head at a time, in float64: returns the heads' outputs and the weights (B, N, T, S)."""
    (b, t, n, h), (s, kv) = q.shape, k.shape[1:3]
    mask = np.broadcast_to(mask, (b, t, s))
    query, key = (np.broadcast_to(position, (b, position.shape[1])) for position in positions)
    out, weights, slope = np.zeros((b, t, n, h)), np.zeros((b, n, t, s)), slopes(n)
    for row, head, at in np.ndindex(b, n, t):
        visibility_of = np.flatnonzero(mask[row, at])
        scores = np.array([scale * q[row, at, head] @ k[row, other, head // (n // kv)] for other in visibility_of])
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        scores = scores - slope[head] * (query[row, at] - key[row, visibility_of])
        weights[row, head, at, visibility_of] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        out[row, at, head] = weights[row, head, at] @ v[row, :, head // (n // kv)]
    return out, weights


def drawn_heads(n, kv, b=2, t=4, s=5, h=6):
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.normal(size=(b, length, heads, h)).astype(np.float32) for length, heads in ((t, n), (s, kv), (s, kv))
    )
    mask = rng.random((b, t, s)) < 0.5
    mask[..., 0] = True
    return q, k, v, mask, (rng.integers(0, 9, (b, t)), rng.integers(0, 9, (1, s)))


def visibility_of(mask, positions):
    """Returns the visibility of an array alone, between queries and keys at these positions."""
    query, key = (Coordinates(position.shape[1], position=position) for position in positions)
    return bidirectional(query, key).with_mask(mask)


@pytest.mark.parametrize(("n", "kv"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attend(n, kv, softcap):
    q, k, v, mask, positions = drawn_heads(n, kv)
    scoring, visibility, bias = Scoring(0.4, softcap), visibility_of(mask, positions), LinearBias(slopes(n))
    expected, weights = naive(q, k, v, mask, positions, 0.4, softcap)
    np.testing.assert_allclose(attend(q, k, v, visibility, scoring, bias=bias), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(attention_weights(q, k, visibility, scoring, bias=bias), weights, rtol=1e-5, atol=1e-6)
    assert np.abs(attend(q, k, v, visibility, scoring) - expected).max() > 0.05


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_derivative_is_that_of_the_equation(softcap, rate):
    """Compares with autodiff of the equation written out, six heads in two groups."""
    q, k, v, mask, (query, key) = drawn_heads(6, 2)
    scoring, bias, drop_key = Scoring(0.4, softcap), LinearBias(slopes(6)), jax.random.key(5)

    def plain(q, k, v):
        scores = 0.4 * jnp.einsum("btnh,bsnh->bnts", q, jnp.repeat(k, 3, axis=2))
        scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
        scores += np.array(slopes(6))[:, None, None] * (key[:, None, :] - query[:, :, None])[:, None]
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
        if rate:
            keys, visibility = keys_of_heads(drop_key, 2, 6), visibility_of(mask, (query, key))
            weights = drop_weights(weights.reshape(2, 2, 3, 4, 5), rate, keys, visibility).reshape(weights.shape)
        return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, 3, axis=2))

    def ours(q, k, v):
        return attend(
            q, k, v, visibility_of(mask, (query, key)), scoring, bias=bias, dropout=rate, dropout_key=drop_key
        )

    (y, pull), (expected, plain_pull) = jax.vjp(ours, q, k, v), jax.vjp(plain, q, k, v)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(pull(jnp.cos(y)), plain_pull(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [63, 130, 270])
def test_causal_blocks_equal_the_whole(length):
    """Two documents are in a row, with positions counted within each document."""
    q, k, v, _, _ = drawn_heads(6, 2, b=1, t=length, s=length, h=4)
    index = np.arange(length)[None]
    segment_ids = (index >= 100).astype(np.int32)
    position = index - 100 * segment_ids
    in_blocks = causal(Coordinates(length, position=position, segment_ids=segment_ids))

    def loss(q, k, v, visibility):
        y = attend(q, k, v, visibility, Scoring(0.4), bias=LinearBias(slopes(6)))
        return jnp.sum(jnp.sin(y)), y

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    both = (
        jax.tree.leaves(run(q, k, v, each))
        for each in (visibility_of(in_blocks.mask(), (position, position)), in_blocks)
    )
    for whole, blocks in zip(*both, strict=True):
        np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [SlidingWindow(size=40), SlidingWindow(size=100), Chunked(size=70)],
    ids=repr,
)
def test_what_a_window_hides_is_left_out(pattern):
    """Two documents in a row, a sink, linear biases: outputs and all gradients equal those of the mask alone."""
    q, k, v, _, _ = drawn_heads(6, 2, b=1, t=330, s=330, h=4)
    index, sink = np.arange(330)[None], np.linspace(-1, 1, 6)
    segment_ids = (index >= 150).astype(np.int32)
    position = index - 150 * segment_ids
    visibility = causal(Coordinates(330, position=position, segment_ids=segment_ids)).with_pattern(pattern)

    def loss(q, k, v, sink, visibility):
        y = attend(q, k, v, visibility, Scoring(0.4), bias=LinearBias(slopes(6)), sink_N=sink)
        return jnp.sum(jnp.sin(y)), y

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    both = (
        jax.tree.leaves(run(q, k, v, sink, each))
        for each in (visibility_of(visibility.mask(), (position, position)), visibility)
    )
    for whole, windows in zip(*both, strict=True):
        np.testing.assert_allclose(windows, whole, rtol=1e-4, atol=1e-5)


def test_distances_are_exact_in_a_coarse_reduction_dtype():
    """bfloat16 has no odd numbers above 256, so distances must be computed before rounding."""
    q, k, *_ = drawn_heads(1, 1, b=1, t=1, s=3)
    positions = np.array([[1001]]), np.array([[999, 1000, 1001]])
    scoring, visibility = Scoring(0.0, reductions="bfloat16"), visibility_of(np.ones((1, 1, 3), bool), positions)
    weights = attention_weights(q, k, visibility, scoring, bias=LinearBias((0.5,)))
    expected = np.exp([-1.0, -0.5, 0.0])
    np.testing.assert_allclose(np.asarray(weights, np.float32)[0, 0, 0], expected / expected.sum(), rtol=0.01)


def coarse(x):
    """Returns x rounded to bfloat16, as float32."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)


def test_the_bias_is_scaled_and_rounded():
    """Slopes, positions and products are in bfloat16: 999 becomes 1000, and 2^-3.5 becomes a number of eight bits."""
    slope, positions = 2.0**-3.5, (np.array([[1001, 1030]]), np.array([[999, 1000, 1001, 1030]]))
    assert coarse(999) == 1000
    q, k, mask = np.zeros((1, 2, 1, 4), np.float32), np.zeros((1, 4, 1, 4), np.float32), np.ones((1, 2, 4), bool)
    bias, visibility = LinearBias((slope,), 0.5, round_to_bfloat16=True), visibility_of(mask, positions)
    at = [[coarse(coarse(slope) * coarse(position)) for position in some[0]] for some in positions]
    scores = 0.5 * (np.array(at[1])[None, :] - np.array(at[0])[:, None])
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    weights = lambda q, k, bias: attention_weights(q, k, visibility, Scoring(1.0), bias=bias)  # noqa: E731
    got = np.asarray(jax.jit(weights)(q, k, bias))[0, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.abs(got - weights(q, k, LinearBias((0.5 * slope,)))[0, 0]).max() > 0.01


# ------------------------------------------------------------------------------------------------------ the model

SIX = GroupedQuery(num_heads=6, num_kv_heads=2, head_dim=4, logit_softcap=1.5)
LATENT = Latent(num_heads=4, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6)


def test_weights_in_a_model_of_packed_documents(small, drawn, run, tokens):
    config = small(position=ALiBi(), mixer=SIX)
    lengths = [5, 4, 3]
    segment_ids = np.tile(np.repeat([1, 2, 3], lengths), (2, 1)).astype(np.int32)
    positions = np.tile(np.concatenate([np.arange(n) for n in lengths]), (2, 1)).astype(np.int32)
    names = ["query", "key", "value", "attention_weights", "mixer_heads"]
    options = {"segment_ids_BT": segment_ids, "positions_BT": positions}
    taps = run(config, drawn(config), tokens, taps=names, **options)[2]
    mask = np.asarray(causal(Coordinates(12, segment_ids=segment_ids)).mask())
    for q, k, v, weights, heads in zip(*(np.asarray(taps[name]) for name in names), strict=True):
        expected, expected_weights = naive(q, k, v, mask, (positions, positions), 0.5, 1.5)
        np.testing.assert_allclose(weights, expected_weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(heads, expected, rtol=1e-4, atol=1e-5)
    # The mask keeps documents apart, and within a document a distance does not depend on where counting starts.
    uncounted = run(config, drawn(config), tokens, taps=names, segment_ids_BT=segment_ids)[2]
    np.testing.assert_allclose(uncounted["attention_weights"], taps["attention_weights"], rtol=1e-4, atol=1e-6)


def test_a_layer_may_have_them_alone(small, drawn, run, tokens):
    """In the other layers, scores do not fall with the distance."""
    config = small(num_layers=3, position=NoPositions(), exceptions=(Except(layers="1", position=ALiBi()),))
    params = drawn(config)
    for stack in params["blocks"].values():
        stack["mixer"]["query"] = jnp.zeros_like(stack["mixer"]["query"])
    weights = np.asarray(run(config, params, tokens, taps=["attention_weights"])[2]["attention_weights"])
    for t in range(12):
        for layer in (0, 2):
            np.testing.assert_allclose(weights[layer, :, :, t, : t + 1], 1 / (t + 1), rtol=1e-5)
        falling = 2.0 ** (-2 * np.arange(1, 5)[:, None]) * (np.arange(t + 1) - t)
        expected = np.exp(falling) / np.exp(falling).sum(-1, keepdims=True)
        np.testing.assert_allclose(weights[1, 0, :, t, : t + 1], expected, rtol=1e-5)


@pytest.mark.parametrize("mixer", [SIX, GroupedQuery(num_heads=4), LATENT], ids=["six", "four", "latent"])
def test_a_scale_and_rounding_reach_every_kind_of_attention(small, drawn, run, tokens, mixer):
    """Twelve positions and slopes that are powers of two are exact in bfloat16: only the scale makes a difference."""
    config = small(position=ALiBi(scale=0.25, round_to_bfloat16=True), mixer=mixer, num_layers=1)
    params = drawn(config)
    for name in ("query", "key") if "key" in params["blocks"]["mixer"] else ("query", "rotary_key"):
        params["blocks"]["mixer"][name] = jnp.zeros_like(params["blocks"]["mixer"][name])
    weights = np.asarray(run(config, params, tokens, taps=["attention_weights"])[2]["attention_weights"])[0]
    for head, slope in enumerate(slopes(mixer.num_heads)):
        falling = 0.25 * slope * (np.arange(12) - 11)
        np.testing.assert_allclose(weights[:, head, 11], [np.exp(falling) / np.exp(falling).sum()] * 2, rtol=1e-5)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_and_written_out_have_one_gradient(small, drawn, tokens, remat):
    params = drawn(small(position=ALiBi()))
    towards = np.random.default_rng(0).normal(size=(2, 12, 17)).astype(np.float32)

    def gradient(**changes):
        config = small(position=ALiBi(), **changes)
        return jax.jit(jax.grad(lambda params: (forward(config, params, tokens).logits_BTV * towards).sum()))(params)

    expected, got = gradient(scan_layers=False), gradient(remat=remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
