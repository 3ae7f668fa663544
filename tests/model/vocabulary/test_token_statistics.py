"""The statistics of tokens against whole logits in numpy, in chunks and on meshes; ties; the largest array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.vocabulary import cross_entropy as module
from model.vocabulary.token_statistics import TokenStatistics, token_statistics
from model.vocabulary.unembedding import LogitTransform, Unembedding
from tests.train.test_whole_arrays import arrays
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ParameterAxes, Sharding, layout_of

B, T, D, V = 8, 6, 16, 40
RNG = np.random.default_rng(0)
STREAM = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(D, V)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=V), jnp.float32)
TARGETS = RNG.integers(0, V, (B, T)).astype(np.int32)
CAPPED = LogitTransform(factor=0.7, softcap=3.0, dtype="float32")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "MAX_LOGITS", 5 * V)


def in_numpy(logits, targets):
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, targets[..., None], -1)[..., 0]
    order = np.argsort(-logits, axis=-1, kind="stable")  # the smaller id first where scores are equal
    rank = np.argmax(order == targets[..., None], axis=-1)
    return TokenStatistics(-np.log(chosen), -(p * np.log(p)).sum(-1), p.max(-1), rank)


def check(found, expected):
    for name in ("nll_BT", "entropy_BT", "confidence_BT"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found.rank_BT, expected.rank_BT)
    assert found.rank_BT.dtype == jnp.int32


@pytest.mark.parametrize("mesh", [None, Mesh(data=2, fsdp=2, tensor=2), Mesh(tensor=8)])
def test_against_whole_logits(mesh):
    layout = ONE_DEVICE
    if mesh is not None:
        table = Sharding(parameters=ParameterAxes(vocab=("tensor",)))
        layout = layout_of(make_mesh(mesh), table)
    unembedding = Unembedding(w_DV=W, bias_V=BIAS, transform=CAPPED)
    found = jax.jit(lambda x: token_statistics(x, unembedding, TARGETS, layout))(STREAM)
    logits = 3.0 * np.tanh((np.einsum("BTD,DV->BTV", STREAM, W) + BIAS) * 0.7 / 3.0)
    check(found, in_numpy(logits, TARGETS))


def test_equal_scores_are_ranked_by_id():
    """As argmax and top-k of numpy and jax do: a token that ties with an earlier one is not the likeliest."""
    weight = jnp.zeros((D, V))
    plain = LogitTransform(factor=1.0, softcap=None, dtype="float32")
    found = token_statistics(STREAM, Unembedding(w_DV=weight, bias_V=None, transform=plain), TARGETS, ONE_DEVICE)
    np.testing.assert_array_equal(found.rank_BT, TARGETS)
    np.testing.assert_allclose(found.entropy_BT, np.log(V), rtol=1e-6)
    np.testing.assert_allclose(found.confidence_BT, 1 / V, rtol=1e-6)


def test_no_array_of_all_tokens_times_the_vocabulary():
    unembedding = Unembedding(w_DV=W, bias_V=None, transform=CAPPED)
    program = jax.make_jaxpr(lambda x: token_statistics(x, unembedding, TARGETS, ONE_DEVICE))(STREAM)
    assert max(np.prod(shape) for shape in arrays(program.jaxpr)) <= max(B * T * D, 5 * V, D * V)
