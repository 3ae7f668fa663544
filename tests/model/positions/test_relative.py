"""Trained relative biases: their buckets, a model that has them, and their training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.errors import UserError
from model.kernels.visibility import Coordinates
from model.layers import Except
from model.options.tree import check
from model.positions.absolute import NoPositions
from model.positions.relative import RelativeBias
from model.transformer import abstract_params, forward, init, logical_axes

# From T5's code with 8 buckets up to a distance of 20, causal: 4 + floor(4 ln(d / 4) / ln(20 / 4)), at most 7.
BUCKETS = [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7]


def test_buckets():
    bias = RelativeBias(buckets=8, max_distance=20).bias(2, jnp.zeros((8, 2)))
    np.testing.assert_array_equal(bias.bucket(np.arange(23)), BUCKETS)
    np.testing.assert_array_equal(bias.bucket(np.array([-5, -1, 1000])), [0, 0, 7])


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (6, 40), (2, 5), (5, 3)])
def test_buckets_are_those_of_the_equation(buckets, distance):
    d, near = np.arange(1, 400), buckets // 2
    far = near + np.floor((buckets - near) * np.log(d / near) / np.log(distance / near) + 1e-9)
    expected = np.where(d < near, d, np.minimum(far, buckets - 1))
    got = RelativeBias(buckets=buckets, max_distance=distance).bias(1, jnp.zeros((buckets, 1))).bucket(d)
    np.testing.assert_array_equal(got, expected)


def test_the_bias_of_every_pair():
    table = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 0, 1, 2], [9, 10, 11, 12, 29, 30, 31]])
    bias = RelativeBias(buckets=8, max_distance=20).bias(3, jnp.asarray(table))
    got = bias(Coordinates(2, position=positions[:, 5:]), Coordinates(7, position=positions))
    assert got.shape == (2, 3, 2, 7)
    for row, head, t, s in np.ndindex(got.shape):
        distance = max(0, positions[row, 5 + t] - positions[row, s])
        assert got[row, head, t, s] == table[BUCKETS[distance], head]


def test_weights_of_a_model(small, drawn, run, tokens):
    """Queries are zeros, so that biases alone determine the weights; one layer has no biases."""
    config = small(num_layers=3, position=RelativeBias(buckets=8, max_distance=20))
    config = small(num_layers=3, position=config.position, exceptions=(Except(layers="1", position=NoPositions()),))
    params = drawn(config)
    for stack in params["blocks"].values():
        stack["mixer"]["query"] = jnp.zeros_like(stack["mixer"]["query"])
    weights = np.asarray(run(config, params, tokens, taps=["attention_weights"])[2]["attention_weights"])
    assert "position_bias" not in params["blocks"]["1"]["mixer"]
    for layer in (0, 2):
        table = np.asarray(params["blocks"][str(layer)]["mixer"]["position_bias"])[0]
        scores = np.exp(table[[BUCKETS[11 - s] for s in range(12)]])
        np.testing.assert_allclose(weights[layer, 0, :, 11], (scores / scores.sum(0)).T, rtol=1e-5)
    np.testing.assert_allclose(weights[1, 0, :, 11], np.full((4, 12), 1 / 12), rtol=1e-5)


def test_the_table_starts_from_zeros_and_is_trained(small, drawn, tokens):
    config = small(position=RelativeBias(buckets=8, max_distance=20), mixer=GroupedQuery(num_heads=4))
    params = init(config, jax.random.key(0))
    table = params["blocks"]["mixer"]["position_bias"]
    assert table.shape == abstract_params(config)["blocks"]["mixer"]["position_bias"].shape == (2, 8, 4)
    assert logical_axes(config)["blocks"]["mixer"]["position_bias"] == ("layer", "position", "heads")
    assert not np.any(table)

    def loss(params):
        return jnp.sum(jnp.sin(3 * forward(config, params, tokens).logits_BTV))

    slope = np.asarray(jax.jit(jax.grad(loss))(drawn(config))["blocks"]["mixer"]["position_bias"])
    used = sorted(set(BUCKETS[:12]))
    assert (np.abs(slope[:, used]).max((0, 2)) > 1e-4).all()
    assert not np.any(np.delete(slope, used, axis=1))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (RelativeBias(buckets=1), "position.buckets: must be at least 2, got 1"),
        (
            RelativeBias(buckets=32, max_distance=16),
            "position.max_distance: must be above the 16 distances that have a bucket each, got 16",
        ),
    ],
)
def test_what_is_refused(small, option, message):
    with pytest.raises(UserError, match=message):
        check(small(position=option))
