"""JumpReLU: its loss against a loop, and its straight-through gradient by the formula."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.train.inspection.features.autoencoders.reference import B, M, compared, mean, parameters, tokens
from train.inspection.features.autoencoders.jump_relu import JumpReLU, heaviside, jump_relu

L0, BANDWIDTH = 0.3, 0.8


def jumping_parameters():
    return parameters(log_threshold=np.log(np.random.default_rng(5).uniform(0.2, 0.8, M)))


def loss(p):
    x, target, weights = tokens()
    values = []
    for i in range(len(x)):
        z = x[i] @ p["encoder"] + p["encoder_bias"]
        fires = z > np.exp(p["log_threshold"])
        y = (z * fires) @ p["decoder"] + p["decoder_bias"]
        values.append(np.sum((y - target[i]) ** 2) + L0 * np.sum(fires))
    return mean(values, weights)


def test_loss_and_the_gradients_that_are_no_estimates():
    compared(JumpReLU(l0=L0, bandwidth=BANDWIDTH), jumping_parameters(), loss, skip=("log_threshold",))


def test_the_gradient_of_thresholds_is_the_formula():
    """d/d theta_i = mean over tokens of -(theta_i / eps * dL/df_i + l0 / eps) K((z_i - theta_i) / eps)."""
    params = jumping_parameters()
    _, grads = compared(JumpReLU(l0=L0, bandwidth=BANDWIDTH), params, loss, skip=("log_threshold",))
    x, target, weights = tokens()
    threshold, expected = np.exp(params["log_threshold"]), np.zeros(M)
    near = 0
    for i in range(B):
        z = x[i] @ params["encoder"] + params["encoder_bias"]
        y = (z * (z > threshold)) @ params["decoder"] + params["decoder_bias"]
        for j in range(M):
            if abs(z[j] - threshold[j]) < BANDWIDTH / 2:
                near += 1
                of_feature = 2 * (y - target[i]) @ params["decoder"][j]
                expected[j] -= weights[i] * (threshold[j] * of_feature + L0) / BANDWIDTH / weights.sum()
    assert near > 5
    np.testing.assert_allclose(grads["log_threshold"], expected * threshold, rtol=1e-4, atol=1e-5)


def test_the_step_has_no_gradient_in_its_input_and_the_jump_has_that_of_relu():
    z, threshold = jnp.array([[0.1, 0.6, -0.3]]), jnp.array([0.2, 0.5, 0.1])
    step = jax.grad(lambda z: heaviside(z, threshold, 1.0).sum())(z)
    jump = jax.grad(lambda z: (3 * jump_relu(z, threshold, 1.0)).sum())(z)
    np.testing.assert_array_equal(step, [[0, 0, 0]])
    np.testing.assert_array_equal(jump, [[0, 3, 0]])
