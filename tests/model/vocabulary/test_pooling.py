import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.cost import count_parameters, forward_flops
from model.errors import UserError
from model.transformer import abstract_params, forward, init
from model.vocabulary.pooling import Pooler, first_token, mean


def test_the_first_token_by_the_equation(small, drawn, tokens):
    config = small(pooler=Pooler())
    params = drawn(config)
    stream = forward(config, params, tokens).stream_BTD
    weights = {name: np.asarray(x, np.float64) for name, x in params["pooler"].items()}
    expected = np.tanh(np.asarray(stream, np.float64)[:, 0] @ weights["dense"] + weights["dense_bias"])
    np.testing.assert_allclose(first_token(params, stream), expected, rtol=1e-5, atol=1e-5)


def test_the_mean_of_the_tokens_of_a_text():
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    is_text = np.array([[True, False, True, False], [False] * 4])
    found = mean(jnp.asarray(x), jnp.asarray(is_text))
    np.testing.assert_allclose(found, [(x[0, 0] + x[0, 2]) / 2, np.zeros(3)], rtol=1e-6, atol=1e-7)


def test_a_pooler_changes_nothing_else_of_the_model(small, drawn):
    config, plain = small(pooler=Pooler()), small()
    params = init(config, jax.random.key(0))
    assert params.pop("pooler")["dense"].shape == (16, 16)
    jax.tree.map(np.testing.assert_array_equal, params, init(plain, jax.random.key(0)))
    assert count_parameters(config).total - count_parameters(plain).total == count_parameters(config).pooler == 16 * 17
    assert forward_flops(config, 6) == forward_flops(plain, 6)
    assert "pooler" not in abstract_params(plain)
    with pytest.raises(UserError, match=r"this model has no pooler; give it pooler=Pooler\(\)"):
        first_token(drawn(plain), jnp.zeros((1, 1, 16)))
