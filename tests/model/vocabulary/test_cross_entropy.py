"""The loss of a stream in chunks, against the whole logits, on one device and on meshes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.vocabulary import cross_entropy as module
from model.vocabulary.cross_entropy import chunk_count, cross_entropy, nll
from model.vocabulary.unembedding import Finish, Unembedding
from tests.train.test_whole_arrays import arrays
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, Sharding, layout_of

B, T, D, V = 8, 6, 16, 40
TENSOR = ("tensor",)
RNG = np.random.default_rng(0)
STREAM = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
W = jnp.asarray(0.5 * RNG.normal(size=(D, V)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=V), jnp.float32)
TARGETS = RNG.integers(0, V, (B, T)).astype(np.int32)
TOWARDS = jnp.asarray(RNG.normal(size=(2, B, T)), jnp.float32)

FINISHES = {
    "plain": (False, 1.0, None),
    "bias": (True, 1.0, None),
    "bias, factor and cap": (True, 0.7, 1.5),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Five tokens at a time where the vocabulary is whole: ten chunks of 48 tokens, of which the last is not full."""
    monkeypatch.setattr(module, "BLOCK", 5 * V)


def whole(stream, unembedding, targets, layout):
    return cross_entropy(unembedding.logits(stream, layout), targets)


def total(loss, finish, layout, stream, w, bias):
    """A loss in which each token's nll and log Z count, by a weight of its own."""
    each = loss(stream, Unembedding(w_DV=w, bias_V=bias, finish=finish), TARGETS, layout)
    return jnp.sum(jnp.stack(each) * TOWARDS), each


def evaluated(loss, kind="plain", layout=ONE_DEVICE, compute="float32", gradients="float32", reductions="float32"):
    """Value and gradients, and what the tokens' losses are."""
    biased, factor, cap = FINISHES[kind]
    finish = Finish(factor=factor, softcap=cap, dtype=reductions)
    run = jax.value_and_grad(functools.partial(total, loss, finish, layout), argnums=(0, 1, 2), has_aux=True)
    bias = BIAS.astype(gradients) if biased else None
    return jax.jit(run)(STREAM.astype(compute), W.astype(gradients), bias)


def assert_equal(got, expected, rtol, atol=0.0):
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(lambda a, b: close(a.astype(jnp.float32), b.astype(jnp.float32)), got, expected)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, expected)


@pytest.mark.parametrize("kind", FINISHES)
def test_values_and_gradients_are_those_of_whole_logits(kind):
    got, expected = evaluated(nll, kind), evaluated(whole, kind)
    assert_equal(got, expected, rtol=2e-5, atol=2e-5)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1])) > 0.1


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


@pytest.mark.parametrize("kind", ["plain", "bias, factor and cap"])
@pytest.mark.parametrize("split", LAYOUTS)
def test_on_a_mesh(split, kind):
    mesh, axes = LAYOUTS[split]
    layout = layout_of(make_mesh(mesh), Sharding(activations=axes))
    assert_equal(evaluated(nll, kind, layout), evaluated(whole, kind), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
def test_in_bfloat16_it_is_as_near_to_float32_as_whole_logits_are(gradients):
    formats = {"compute": "bfloat16", "gradients": gradients}
    exact = evaluated(whole, "bias")
    got, other = evaluated(nll, "bias", **formats), evaluated(whole, "bias", **formats)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, other)

    def error(found):
        return [float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(*map(jax.tree.leaves, found))]

    errors, others = error((got, exact)), error((other, exact))
    print(errors, others)
