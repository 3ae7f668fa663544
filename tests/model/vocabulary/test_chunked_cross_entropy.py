"""The loss of a stream in chunks, against the whole logits, on one device and on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.vocabulary import cross_entropy as module
from model.vocabulary.cross_entropy import cross_entropy, nll, total_nll
from model.vocabulary.unembedding import LogitTransform, Unembedding
from tests.train.parallel.test_collectives import collectives, loop_bodies, sizes_of
from tests.train.test_whole_arrays import arrays
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of, param_shardings

B, T, D, V = 8, 6, 16, 40
TENSOR = ("tensor",)
RNG = np.random.default_rng(0)
STREAM = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
W = jnp.asarray(0.5 * RNG.normal(size=(D, V)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=V), jnp.float32)
TARGETS = RNG.integers(0, V, (B, T)).astype(np.int32)
TOWARDS = jnp.asarray(RNG.normal(size=(2, B, T)), jnp.float32)

PLAIN = LogitTransform(factor=1.0, softcap=None, dtype="float32")
FINISHES = {
    "plain": (False, 1.0, None),
    "bias": (True, 1.0, None),
    "bias, factor and cap": (True, 0.7, 1.5),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """At most five tokens at a time where the vocabulary is whole: twelve chunks of four."""
    monkeypatch.setattr(module, "MAX_LOGITS", 5 * V)


def whole(stream, unembedding, targets, layout):
    return cross_entropy(unembedding.logits(stream, layout), targets)


def total(loss, transform, layout, stream, w, bias):
    """A loss in which each token's nll and log Z count, by a weight of its own."""
    rows, length, _ = stream.shape
    each = loss(stream, Unembedding(w_DV=w, bias_V=bias, transform=transform), TARGETS[:rows, :length], layout)
    return jnp.sum(jnp.stack(each) * TOWARDS[:, :rows, :length]), each


def evaluated(
    loss,
    kind="plain",
    layout=ONE_DEVICE,
    stream=STREAM,
    compute="float32",
    gradients="float32",
    reductions="float32",
):
    """Returns the total, the nll and log Z of each token, and the gradients by stream, weight and bias."""
    biased, factor, cap = FINISHES[kind]
    transform = LogitTransform(factor=factor, softcap=cap, dtype=reductions)
    run = jax.value_and_grad(functools.partial(total, loss, transform, layout), argnums=(0, 1, 2), has_aux=True)
    bias = BIAS.astype(gradients) if biased else None
    return jax.jit(run)(stream.astype(compute), W.astype(gradients), bias)


def assert_equal(got, expected, rtol, atol=0.0):
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(lambda a, b: close(a.astype(jnp.float32), b.astype(jnp.float32)), got, expected)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, expected)


@pytest.mark.parametrize("kind", FINISHES)
def test_values_and_gradients_are_those_of_whole_logits(kind):
    got, expected = evaluated(nll, kind), evaluated(whole, kind)
    assert_equal(got, expected, rtol=2e-5, atol=2e-5)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1])) > 0.1


def test_the_last_chunk_need_not_be_full():
    """Seven tokens: four and three."""
    stream = STREAM[:7, :1]
    assert_equal(evaluated(nll, stream=stream), evaluated(whole, stream=stream), rtol=2e-5, atol=2e-5)
    assert module.count_chunks(7, V) == 2


def test_what_fills_up_the_last_chunk_adds_nothing_where_scores_are_high():
    """Its scores are the bias; exp(100) is infinite in float32."""
    bias = jnp.full(V, 100.0)

    def slopes(loss):
        def of(stream, w, bias):
            unembedding = Unembedding(w_DV=w, bias_V=bias, transform=PLAIN)
            return jnp.sum(loss(stream, unembedding, TARGETS[:7, :1], ONE_DEVICE)[0])

        return jax.jit(jax.grad(of, argnums=(0, 1, 2)))(STREAM[:7, :1], W, bias)

    assert_equal(slopes(nll), slopes(whole), rtol=2e-5, atol=2e-5)


LAYOUTS = {
    "rows": (Mesh(data=2, fsdp=4), ActivationAxes()),
    "rows and vocabulary": (Mesh(fsdp=4, tensor=2), ActivationAxes()),
    "the stream's positions and vocabulary": (Mesh(fsdp=4, tensor=2), ActivationAxes(sequence=TENSOR)),
    "positions": (Mesh(fsdp=4, tensor=2), ActivationAxes(sequence=TENSOR, vocab_sequence=TENSOR)),
    "vocabulary over what rows leave": (Mesh(fsdp=4, tensor=2), ActivationAxes(vocab=("fsdp", "tensor"))),
    "five of six positions, which are not split": (
        Mesh(data=2, tensor=4),
        ActivationAxes(vocab_sequence=TENSOR, vocab=()),
    ),
}


@pytest.mark.parametrize("split", LAYOUTS)
def test_on_a_mesh(split):
    mesh, axes = LAYOUTS[split]
    layout = layout_of(make_mesh(mesh), Sharding(activations=axes))
    kind = "bias, factor and cap"
    assert_equal(evaluated(nll, kind, layout), evaluated(whole, kind), rtol=2e-5, atol=2e-5)


# ------------------------------------------------------------------------------------- the sums that training takes

WEIGHTS = jnp.asarray(np.where(RNG.random((B, T)) < 0.7, RNG.random((B, T)), 0.0), jnp.float32)


def by_definition(stream, unembedding, targets, weights, layout, z_loss):
    """Returns the two sums from whole logits; the sum to report has no gradient."""
    each, log_z = whole(stream, unembedding, targets, layout)
    reported = jnp.sum(weights * each)
    return jax.lax.stop_gradient(reported), reported + z_loss * jnp.sum(weights * log_z**2)


def summed(loss, kind="plain", layout=ONE_DEVICE, z_loss=0.1, compute="float32", gradients="float32"):
    """Both sums, and the gradients of a function of them by stream, weight, bias and the tokens' weights."""
    biased, factor, cap = FINISHES[kind]
    transform = LogitTransform(factor=factor, softcap=cap, dtype="float32")

    def run(stream, w, bias, weights):
        unembedding = Unembedding(w_DV=w, bias_V=bias, transform=transform)
        reported, minimised = loss(stream, unembedding, TARGETS, weights, layout, z_loss)
        return 0.3 * minimised + 7 * reported, (reported, minimised)

    bias = BIAS.astype(gradients) if biased else None
    arrays = STREAM.astype(compute), W.astype(gradients), bias, WEIGHTS
    (_, sums), slopes = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2, 3), has_aux=True))(*arrays)
    return sums, slopes


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("kind", FINISHES)
def test_weighted_sums_and_their_gradient(kind, z_loss):
    got, expected = summed(total_nll, kind, z_loss=z_loss), summed(by_definition, kind, z_loss=z_loss)
    assert_equal(got, expected, rtol=2e-5, atol=2e-5)
    assert (float(expected[0][0]) == float(expected[0][1])) == (z_loss == 0)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1])) > 0.1


@pytest.mark.parametrize("split", LAYOUTS)
def test_weighted_sums_on_a_mesh(split):
    mesh, axes = LAYOUTS[split]
    layout = layout_of(make_mesh(mesh), Sharding(activations=axes))
    kind = "bias, factor and cap"
    assert_equal(summed(total_nll, kind, layout), summed(by_definition, kind), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("block", [5 * V, B * T * V], ids=["chunks", "whole"])
def test_products_of_the_sums_are_three(block, monkeypatch):
    """Losses of tokens need four products: the backward pass recomputes the logits."""
    monkeypatch.setattr(module, "MAX_LOGITS", block)
    unembedding = functools.partial(Unembedding, bias_V=None, transform=PLAIN)

    def products(loss):
        program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(STREAM, W)
        return str(program).count("dot_general[")

    sums = lambda x, w: total_nll(x, unembedding(w_DV=w), TARGETS, WEIGHTS, ONE_DEVICE)[1]  # noqa: E731
    tokens = lambda x, w: jnp.sum(nll(x, unembedding(w_DV=w), TARGETS, ONE_DEVICE)[0] * WEIGHTS)  # noqa: E731
    assert products(sums) == 3
    assert products(tokens) == (4 if block == 5 * V else 3)


# ---------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
def test_sums_in_bfloat16_are_about_as_near_to_float32_as_those_of_whole_logits(gradients):
    """Gradients in bfloat16 are rounded twice: when they are reduced, and when they are multiplied by the rest."""
    formats = {"compute": "bfloat16", "gradients": gradients}
    exact = summed(by_definition, "bias")
    got, other = summed(total_nll, "bias", **formats), summed(by_definition, "bias", **formats)
    for mine, theirs, truth in zip(*map(jax.tree.leaves, (got, other, exact)), strict=True):
        mine, theirs = (np.linalg.norm(x.astype(jnp.float32) - truth) for x in (mine, theirs))
        assert mine <= (1.5 if gradients == "float32" else 3) * theirs + 1e-6


def test_a_factor_that_comes_later_scales_gradients_in_bfloat16_by_no_more_or_less():
    """1/192 is 0.1% off in bfloat16, twice as far as allowed; roundings of single elements cancel out."""
    rng = np.random.default_rng(1)
    stream, w = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((8, 48, 32), (32, V)))
    stream, w = (x.astype("bfloat16").astype("float32") for x in (stream, 0.3 * w))
    targets, weights = rng.integers(0, V, (8, 48)).astype(np.int32), np.arange(8 * 48).reshape(8, 48) < 192

    def slopes(total, dtype):
        def mean(stream, w):
            unembedding = Unembedding(w_DV=w, bias_V=None, transform=PLAIN)
            return total(stream, unembedding, targets, weights.astype("float32"), ONE_DEVICE, 0.0)[1] / 192

        return jax.jit(jax.grad(mean, argnums=(0, 1)))(stream.astype(dtype), w.astype(dtype))

    for got, truth in zip(slopes(total_nll, "bfloat16"), slopes(by_definition, "float32"), strict=True):
        assert got.dtype == jnp.bfloat16
        assert abs(np.vdot(got.astype("float32"), truth) / np.vdot(truth, truth) - 1) < 5e-4


@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
def test_in_bfloat16_it_is_about_as_near_to_float32_as_whole_logits_are(gradients):
    """Of whole logits the products of the backward pass are float32; a chunk rounds their gradients to bfloat16."""
    formats = {"compute": "bfloat16", "gradients": gradients}
    exact = evaluated(whole, "bias")
    got, other = evaluated(nll, "bias", **formats), evaluated(whole, "bias", **formats)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, other)
    for mine, theirs, truth in zip(*map(jax.tree.leaves, (got, other, exact)), strict=True):
        mine, theirs = (np.linalg.norm(x.astype(jnp.float32) - truth) for x in (mine, theirs))
        assert mine <= 1.5 * theirs + 1e-6


def test_logits_may_be_bfloat16_too():
    formats = {"compute": "bfloat16", "reductions": "bfloat16"}
    got, other = evaluated(nll, "bias, factor and cap", **formats), evaluated(whole, "bias, factor and cap", **formats)
    assert_equal(got, other, rtol=0.1, atol=0.1)


def test_the_gradient_of_the_weight_is_summed_up_in_float32():
    """128 tokens, a chunk each, whose logits are all alike: in bfloat16 equal terms stop to count at the 257th."""
    tokens, targets = jnp.ones((4, 128, 1), "bfloat16"), jnp.zeros((4, 128), jnp.int32)

    def loss(w):
        return jnp.sum(nll(tokens, Unembedding(w_DV=w, bias_V=None, transform=PLAIN), targets, ONE_DEVICE)[0])

    slopes = jax.jit(jax.grad(loss))(jnp.zeros((1, 5 * V), "bfloat16"))  # a chunk is one token
    assert module.count_chunks(512, 5 * V) == 512
    share = float(jnp.asarray(1 / (5 * V), "bfloat16"))
    np.testing.assert_allclose(slopes[0, 1:].astype(jnp.float32), 512 * share, rtol=2**-8)


# ------------------------------------------------------------------------------------------------------ its arrays


def test_no_array_is_larger_than_a_chunk():
    """Forward and backward; an array as wide as the vocabulary has at most the rows of a chunk, or is the weight."""
    transform = LogitTransform(factor=0.7, softcap=1.5, dtype="float32")
    run = jax.value_and_grad(functools.partial(total, nll, transform, ONE_DEVICE), argnums=(0, 1, 2), has_aux=True)
    shapes = set(arrays(jax.make_jaxpr(run)(STREAM, W, BIAS).jaxpr))
    assert {shape for shape in shapes if V in shape} == {(4, V), (D, V), (V,), (1, V)}
    assert (12, 4, D) in shapes


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "count"),
    [(16384, 32000, 8), (16384, 50257, 16), (4096, 128256, 8), (1021, 2**20, 16), (64, 2**27, 64), (1024, 65, 1)],
)
def test_chunks_are_few_and_of_one_size_where_that_is_cheap(tokens, vocab_size, count, monkeypatch):
    """1,021 is a prime: 64 tokens at a time, the last chunk of 61. A vocabulary over the bound is taken token by token."""
    monkeypatch.setattr(module, "MAX_LOGITS", 2**26)
    assert module.count_chunks(tokens, vocab_size) == count


def test_few_logits_are_made_whole(monkeypatch):
    """No loop, and the gradient is that of whole logits to the bit."""
    monkeypatch.setattr(module, "MAX_LOGITS", B * T * V)
    assert "scan" not in str(jax.make_jaxpr(lambda x: total(nll, PLAIN, ONE_DEVICE, x, W, None))(STREAM))
    assert_equal(evaluated(nll), evaluated(whole), rtol=0)


# --------------------------------------------------------------------------------------- what devices send each other


@pytest.mark.parametrize(
    ("mesh", "table", "expected"),
    [
        # Rows alone: the gradient of the weight, once.
        (Mesh(data=8), Sharding(), {("all-reduce", "f32", sizes_of(D, V)): 1}),
        # Parameters split too: the weight is gathered once for both passes, and its gradient goes where it belongs.
        (
            Mesh(fsdp=8),
            Sharding(),
            {("all-gather", "f32", sizes_of(D, V)): 1, ("reduce-scatter", "f32", sizes_of(D // 8, V)): 1},
        ),
        # The vocabulary: besides, for each token the highest score, sum and score of the target, and its gradient.
        (
            Mesh(data=4, tensor=2),
            Sharding(),
            {
                ("all-reduce", "f32", sizes_of(B // 4, T)): 3,
                ("all-reduce", "f32", sizes_of(B // 4, T, D)): 1,
                ("all-reduce", "f32", sizes_of(D, V // 2)): 1,
            },
        ),
        # Positions: the gradient of the weight alone, over all eight devices at once.
        (
            Mesh(data=4, tensor=2),
            Sharding(
                parameters=ParameterAxes(vocab=()),
                activations=ActivationAxes(sequence=TENSOR, vocab_sequence=TENSOR, vocab=()),
            ),
            {("all-reduce", "f32", sizes_of(D, V)): 1},
        ),
    ],
    ids=["rows", "parameters", "vocabulary", "positions"],
)
@pytest.mark.parametrize("sums", [False, True], ids=["tokens", "sums"])
def test_devices_add_up_once_and_nothing_in_a_loop(mesh, table, expected, sums):
    devices = make_mesh(mesh)
    layout = layout_of(devices, table)
    placed = param_shardings(devices, table, ("embed", "vocab"), jax.ShapeDtypeStruct((D, V), jnp.float32))
    rows, ids = layout.placement(("batch", "sequence", None)), layout.placement(("batch", "sequence"))
    stream = jax.ShapeDtypeStruct((B, T, D), jnp.float32, sharding=rows)
    weight = jax.ShapeDtypeStruct((D, V), jnp.float32, sharding=placed)
    targets = jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=ids)

    def loss(x, w, targets):
        unembedding = Unembedding(w_DV=w, bias_V=None, transform=PLAIN)
        if sums:
            return total_nll(x, unembedding, targets, WEIGHTS, layout)[1]
        return jnp.sum(nll(x, unembedding, targets, layout)[0])

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), out_shardings=(None, (rows, placed)))
    text = run.lower(stream, weight, targets).compile().as_text()
    assert collectives(text) == expected
    assert not any(collectives(body) for body in loop_bodies(text))
