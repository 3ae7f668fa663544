"""Autoencoders written out in NumPy, float64, token by token: what the architectures are compared with."""

import numpy as np

B, D, OUT, M = 6, 5, 4, 9


def parameters(seed=0, **own):
    """Random parameters, float64; `own` are the vectors of an architecture, by name."""
    draw = np.random.default_rng(seed)
    decoder = draw.normal(size=(M, OUT))
    params = {
        "encoder": draw.normal(size=(D, M)),
        "decoder": decoder / np.linalg.norm(decoder, axis=1, keepdims=True) * draw.uniform(0.5, 2, (M, 1)),
        "decoder_bias": draw.normal(size=OUT) * 0.1,
        "encoder_bias": draw.normal(size=M) * 0.1,
    }
    return params | own


def tokens(seed=1):
    """Inputs, targets and weights; the last token is padding."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(B, D)), draw.normal(size=(B, OUT)), np.array([1.0] * (B - 1) + [0.0])


def mean(values, weights):
    return sum(v * w for v, w in zip(values, weights)) / sum(weights)


def largest(values, k):
    """The k largest of a vector, zeros elsewhere."""
    kept = np.zeros_like(values)
    for i in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
        kept[i] = max(values[i], 0.0)
    return kept


def numerical_gradient(loss, params, name, step=1e-6):
    """The derivative of a loss in every entry of a parameter, by central differences in float64."""
    grad = np.zeros_like(params[name])
    for index in np.ndindex(*grad.shape):
        ends = []
        for sign in (1, -1):
            moved = {key: x.copy() for key, x in params.items()}
            moved[name][index] += sign * step
            ends.append(loss(moved))
        grad[index] = (ends[0] - ends[1]) / (2 * step)
    return grad


def compared(architecture, params, expected_loss, *, dead=None, step=0, skip=(), tolerance=2e-4):
    """Asserts that loss and gradients equal those of `expected_loss(params)`; returns the result."""
    import jax
    import jax.numpy as jnp

    from train.inspection.features.autoencoders.interface import Inputs

    x, target, weights = tokens()
    inputs = Inputs(*(jnp.asarray(a, jnp.float32) for a in (x, target, weights)))
    dead = jnp.zeros(M, bool) if dead is None else jnp.asarray(dead)

    def total(p):
        found = architecture.loss(p, inputs, dead, jnp.int32(step))
        return found.total, found

    in_float32 = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    (value, found), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(in_float32)
    np.testing.assert_allclose(value, expected_loss(params), rtol=2e-5)
    for name in params:
        if name not in skip:
            expected = numerical_gradient(expected_loss, params, name)
            np.testing.assert_allclose(grads[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    return found, grads
