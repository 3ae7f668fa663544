"""Scores of tokens against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.cost import count_parameters, forward_flops, training_flops
from model.errors import UserError
from model.options.tree import check
from model.parameters.precision import Precision
from model.transformer import abstract_params, forward, init, logits, scores, specs, stream
from model.vocabulary.score_head import ScoreHead
from tests.traced_flops import matmul_flops
from train.optimizers.frozen import Frozen, mark_frozen

X = np.random.default_rng(0).normal(size=(2, 3, 16))


def test_scores_are_sums_written_out(small, drawn):
    config = small(score_head=ScoreHead(outputs=3))
    params = drawn(config)
    weight = np.asarray(params["score_head"]["weight"], np.float64)
    expected = np.zeros((2, 3, 3))
    for b, t, n in np.ndindex(expected.shape):
        expected[b, t, n] = sum(X[b, t, d] * weight[d, n] for d in range(16))
    found = scores(config, params, jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_head_changes_nothing_else_of_the_model(small, drawn, tokens):
    config = small(score_head=ScoreHead())
    params, plain = init(config, jax.random.key(0)), init(small(), jax.random.key(0))
    assert params.pop("score_head")["weight"].shape == (16, 1)
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    whole = drawn(config)
    with_head = forward(config, whole, tokens).logits_BTV
    whole.pop("score_head")
    np.testing.assert_array_equal(with_head, forward(small(), whole, tokens).logits_BTV)


def test_a_head_of_zeros_gives_zeros_and_learns(small, tokens):
    config = small(score_head=ScoreHead(zero=True))
    params = init(config, jax.random.key(0))
    of = lambda params: scores(config, params, stream(config, params, tokens).stream_BTD)  # noqa: E731
    np.testing.assert_array_equal(of(params), 0)
    slope = jax.grad(lambda params: of(params)[0, -1, 0])(params)["score_head"]["weight"]
    assert np.abs(slope).max() > 1e-3


def test_scores_are_float32_in_a_model_of_bfloat16(small, drawn):
    """1 + 2^-10 is no number of bfloat16."""
    config = small(score_head=ScoreHead(), precision=Precision(parameters="bfloat16", compute="bfloat16"))
    params = drawn(config)
    assert params["score_head"]["weight"].dtype == jnp.bfloat16
    assert specs(config)["score_head"]["weight"].role == "score"
    params["score_head"]["weight"] = jnp.ones((16, 1), jnp.bfloat16)
    x = jnp.zeros((1, 1, 16), jnp.bfloat16).at[0, 0, :2].set(jnp.asarray([1, 2**-10], jnp.bfloat16))
    found = scores(config, params, x)
    assert found.dtype == jnp.float32
    assert float(found[0, 0, 0]) == 1 + 2**-10


def test_a_token_has_no_score_of_later_ones(small, drawn, tokens):
    config = small(score_head=ScoreHead(), scan_layers=False)
    params = drawn(config)
    of = lambda tokens: scores(config, params, stream(config, params, tokens).stream_BTD)[..., 0]  # noqa: E731
    changed = tokens.copy()
    changed[:, 7] = (changed[:, 7] + 1) % 17
    before, after = of(tokens), of(changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (np.abs(before - after)[:, 7:].max(axis=0) > 1e-4).all()


def test_bad_heads(small, drawn):
    with pytest.raises(UserError, match=r"score_head.outputs: must be at least 1, or score_head=None for no scores"):
        check(small(score_head=ScoreHead(outputs=0)), "model")
    plain = small()
    with pytest.raises(UserError, match=r"this model has no scores; give it score_head=ScoreHead\(\)"):
        scores(plain, drawn(plain), jnp.zeros((1, 1, 16)))
    assert "score_head" not in abstract_params(plain)
    assert logits(plain, drawn(plain), jnp.zeros((1, 1, 16))).shape == (1, 1, 17)


def test_scores_are_counted_in_training(small):
    plain, config = small(scan_layers=False), small(scan_layers=False, score_head=ScoreHead(outputs=3))
    assert count_parameters(config).score_head == count_parameters(config).total - count_parameters(plain).total == 48
    assert forward_flops(config, 6) == forward_flops(plain, 6)
    assert training_flops(config, 6) - training_flops(plain, 6) == 3 * 2 * (6 * 16 * 3)
    marked = mark_frozen(specs(config), Frozen(roles=("score",)))
    assert training_flops(config, 6) - training_flops(config, 6, marked) == 2 * (6 * 16 * 3)
    traced = jax.make_jaxpr(lambda params, x: scores(config, params, x))
    assert matmul_flops(traced(abstract_params(config), jnp.zeros((1, 6, 16))).jaxpr) == 2 * (6 * 16 * 3)
