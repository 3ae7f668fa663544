"""Softmax regression, trained with L-BFGS on all tokens at once.

The loss is the mean cross-entropy plus l2 |W|^2 / 2, of activations whose entries have mean 0 and variance 1 on the
tokens that the probe is trained on. It is convex, so that the result depends on no initial value.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class LinearProbe(NamedTuple):
    """Weights (D, C), biases (C,), and the mean and the deviation of activations (D,)."""

    w_DC: np.ndarray
    b_C: np.ndarray
    mean_D: np.ndarray
    deviation_D: np.ndarray

    def predict(self, x_ND: np.ndarray) -> np.ndarray:
        """The likeliest label of each activation."""
        scores: np.ndarray = (x_ND - self.mean_D) / self.deviation_D @ self.w_DC + self.b_C
        return scores.argmax(axis=1)


def objective(params: tuple[jax.Array, jax.Array], x_ND: jax.Array, labels_N: jax.Array, l2: float) -> jax.Array:
    """The loss of normalised activations."""
    w_DC, b_C = params
    scores_NC = x_ND @ w_DC + b_C
    # A sum in place of a look-up, whose gradient is a scatter that XLA takes long to compile.
    chosen_N = jnp.sum(scores_NC * jax.nn.one_hot(labels_N, len(b_C)), axis=1)
    return jnp.mean(jax.nn.logsumexp(scores_NC, axis=1) - chosen_N) + l2 / 2 * jnp.sum(jnp.square(w_DC))


def fit(x_ND: np.ndarray, labels_N: np.ndarray, classes: int, l2: float = 1e-3, steps: int = 60) -> LinearProbe:
    """The probe of activations and their labels."""
    mean_D, deviation_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-6
    zeros = jnp.zeros((x_ND.shape[1], classes)), jnp.zeros(classes)
    w_DC, b_C = jax.device_get(_minimise(zeros, (x_ND - mean_D) / deviation_D, labels_N, l2, steps))
    return LinearProbe(w_DC, b_C, mean_D, deviation_D)


def _minimise(
    start: tuple[jax.Array, jax.Array], x_ND: np.ndarray, labels_N: np.ndarray, l2: float, steps: int
) -> tuple[jax.Array, jax.Array]:
    found: tuple[jax.Array, jax.Array] = _lbfgs(start, jnp.asarray(x_ND, jnp.float32), jnp.asarray(labels_N), l2, steps)
    return found


@jax.jit
def _lbfgs(start: object, x_ND: jax.Array, labels_N: jax.Array, l2: jax.Array, steps: jax.Array) -> object:
    optimizer = optax.lbfgs()

    def loss(params: object) -> jax.Array:
        return objective(params, x_ND, labels_N, l2)  # type: ignore[arg-type]

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(_: jax.Array, carry: tuple[object, object]) -> tuple[object, object]:
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state

    params, _ = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
    return params
