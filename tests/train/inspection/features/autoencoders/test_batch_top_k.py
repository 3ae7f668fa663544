"""BatchTopK: k activations a token in the mean, shared by the batch; one threshold afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.inspection.features.autoencoders.reference import B, M, compared, largest, mean, parameters, tokens
from train.inspection.features.autoencoders.batch_top_k import BatchTopK
from train.inspection.features.autoencoders.interface import Inputs

K = 2


def features_of(p):
    x, _, weights = tokens()
    pre = np.stack([x[i] @ p["encoder"] + p["encoder_bias"] for i in range(B)])
    return largest((np.maximum(pre, 0) * weights[:, None]).ravel(), K * B).reshape(B, M)


def loss(p):
    _, target, weights = tokens()
    outputs = features_of(p) @ p["decoder"] + p["decoder_bias"]
    return mean([np.sum((outputs[i] - target[i]) ** 2) for i in range(B)], weights)


def test_loss_and_gradient():
    params = parameters(threshold=np.zeros(()))
    found, grads = compared(BatchTopK(k=K, auxiliary=None), params, loss)
    counts = (np.asarray(found.features_BM) > 0).sum(1)
    assert counts.sum() == K * B
    assert len(set(counts[:-1])) > 1  # tokens share them unevenly
    assert counts[-1] == 0  # padding takes none
    assert float(grads["threshold"]) == 0


def test_the_threshold_is_the_mean_of_the_smallest_that_were_kept():
    option = BatchTopK(k=K, threshold_rate=0.25)
    params = {name: jnp.asarray(x, jnp.float32) for name, x in parameters(threshold=np.zeros(())).items()}
    least = [0.5, 0.1, 0.9]
    for value in least:
        params = option.after_step(params, jnp.array([[0.0, value], [2.0, 3.0]]), jnp.ones(2))
    np.testing.assert_allclose(params["threshold"], 0.75 * (0.75 * 0.5 + 0.25 * 0.1) + 0.25 * 0.9, rtol=1e-6)
    kept = option.after_step(params, jnp.zeros((2, 2)), jnp.ones(2))  # nothing fired
    assert kept["threshold"] == params["threshold"]
    x = np.float32(tokens()[0])
    features = np.asarray(jax.jit(option.encode)(params, x))
    pre = x @ params["encoder"] + params["encoder_bias"]
    np.testing.assert_allclose(features, np.where(pre > params["threshold"], pre, 0), rtol=1e-6)


def test_the_threshold_lets_k_features_fire_on_new_tokens_once_it_is_settled():
    option, adam = BatchTopK(k=3, auxiliary=None, threshold_rate=0.05), optax.adam(3e-3)
    draw = np.random.default_rng(0)
    decoder = draw.normal(size=(32, 8)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    params = {"encoder": decoder.T, "decoder": decoder, "decoder_bias": np.zeros(8, np.float32)}
    params |= option.own_parameters(32)
    x_NBD = jnp.asarray(draw.normal(size=(301, 256, 8)) @ draw.normal(size=(8, 8)), jnp.float32)

    def step(carry, x_BD):
        params, state = carry

        def loss(params):
            found = option.loss(params, Inputs(x_BD, x_BD, jnp.ones(256)), jnp.zeros(32, bool), jnp.int32(0))
            return found.total, found.features_BM

        grads, features_BM = jax.grad(loss, has_aux=True)(params)
        updates, state = adam.update(grads, state)
        params = option.after_step(optax.apply_updates(params, updates), features_BM, jnp.ones(256))
        return (params, state), None

    (params, _), _ = jax.jit(lambda carry, x: jax.lax.scan(step, carry, x))((params, adam.init(params)), x_NBD[:-1])
    fired = (np.asarray(option.encode(params, x_NBD[-1])) > 0).sum(1)
    assert fired.mean() == pytest.approx(3, rel=0.15)
    assert fired.std() > 0.3  # a token has more or fewer
    assert BatchTopK(threshold_rate=0.05).settles_after() == 90
    assert BatchTopK(threshold_rate=1).settles_after() == 1
