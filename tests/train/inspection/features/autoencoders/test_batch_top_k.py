"""BatchTopK: k activations a token in the mean, shared by the batch; one threshold afterwards."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.train.inspection.features.autoencoders.reference import B, M, compared, largest, mean, parameters, tokens
from train.inspection.features.autoencoders.batch_top_k import BatchTopK

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
