"""Elhage et al. 2022, "Toy Models of Superposition": n features through m < n dimensions and back.

    h = W x        x' = ReLU(W^T h + b)        loss = sum_i I_i (x_i - x'_i)^2, the mean over inputs

A feature x_i is 0 with probability S, its sparsity, and else uniform from 0 to 1; I_i is its importance. Many models
are trained at once, each with its own sparsity and importances. The axes: K models, B inputs, n features, m dimensions.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from model.options.tree import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    """The sizes of models, and their training.

    Attributes:
      features: n.
      dimensions: m.
      steps: updates of Adam.
      batch: inputs of an update.
      rate: the learning rate.
      restarts: trainings of each model from other initial values, of which the one with the lowest loss is kept.
      seed: of initial values and inputs.
    """

    features: int = 20
    dimensions: int = 5
    steps: int = 5000
    batch: int = 512
    rate: float = 3e-3
    restarts: int = 4
    seed: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("features", "dimensions", "steps", "batch", "restarts"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if self.rate <= 0:
            yield "rate", f"must be above 0, got {self.rate}"


class Models(NamedTuple):
    """Parameters: weights (K, m, n) and biases (K, n)."""

    w_Kmn: jax.Array
    b_Kn: jax.Array


def draw(key: jax.Array, batch: int, sparsity_K: jax.Array, features: int) -> jax.Array:
    """Inputs (K, B, n). All models see the same numbers, which sparser ones set to 0 more often."""
    value_key, present_key = jax.random.split(key)
    values_Bn = jax.random.uniform(value_key, (batch, features))
    chance_Bn = jax.random.uniform(present_key, (batch, features))
    return jnp.where(chance_Bn >= sparsity_K[:, None, None], values_Bn, 0.0)


def losses(models: Models, x_KBn: jax.Array, importance_Kn: jax.Array) -> jax.Array:
    """The loss of each model, (K,)."""
    h_KBm = jnp.einsum("kmn,kbn->kbm", models.w_Kmn, x_KBn)
    y_KBn = jax.nn.relu(jnp.einsum("kmn,kbm->kbn", models.w_Kmn, h_KBm) + models.b_Kn[:, None])
    return jnp.mean(jnp.sum(importance_Kn[:, None] * jnp.square(x_KBn - y_KBn), axis=-1), axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _train(toy: Toy, sparsity_K: jax.Array, importance_Kn: jax.Array) -> tuple[Models, jax.Array]:
    start_key, data_key, test_key = jax.random.split(jax.random.key(toy.seed), 3)
    shape = (len(sparsity_K), toy.dimensions, toy.features)
    start_Kmn = jax.random.normal(start_key, shape) / toy.features**0.5
    models = Models(start_Kmn, jnp.zeros((shape[0], shape[2])))
    schedule = optax.cosine_decay_schedule(toy.rate, toy.steps)
    optimizer = optax.adam(schedule)

    def step(carry: tuple[Models, optax.OptState], number: jax.Array) -> tuple[tuple[Models, optax.OptState], None]:
        models, state = carry
        x_KBn = draw(jax.random.fold_in(data_key, number), toy.batch, sparsity_K, toy.features)
        # The losses of the models do not meet, so that the gradient of their sum is that of each.
        grads = jax.grad(lambda models: jnp.sum(losses(models, x_KBn, importance_Kn)))(models)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(models, updates), state), None

    (models, _), _ = jax.lax.scan(step, (models, optimizer.init(models)), jnp.arange(toy.steps))
    x_KBn = draw(test_key, 16 * toy.batch, sparsity_K, toy.features)
    return models, losses(models, x_KBn, importance_Kn)


class Trained(NamedTuple):
    """Trained models: weights (K, m, n), biases (K, n), and losses on other inputs (K,)."""

    w_Kmn: np.ndarray
    b_Kn: np.ndarray
    loss_K: np.ndarray


def train(toy: Toy, sparsity: np.ndarray, importance: np.ndarray) -> Trained:
    """Trains a model for each sparsity (K,) and its importances (K, n). Raises UserError for invalid options."""
    check(toy, "toy")
    repeated = (np.tile(x, (toy.restarts, *[1] * (x.ndim - 1))).astype(np.float32) for x in (sparsity, importance))
    models, loss = jax.device_get(_train(toy, *repeated))
    count = len(sparsity)
    by_restart = loss.reshape(toy.restarts, count)
    best = by_restart.argmin(axis=0) * count + np.arange(count)
    return Trained(models.w_Kmn[best], models.b_Kn[best], loss[best])


def represented(w_mn: np.ndarray) -> np.ndarray:
    """How far each feature is represented, |W_i|^2: 0 for not at all, 1 for fully."""
    return np.square(w_mn).sum(axis=-2)


def interference(w_mn: np.ndarray) -> np.ndarray:
    """How much others share a feature's direction: the sum over j != i of (W_i/|W_i| . W_j)^2."""
    gram = np.swapaxes(w_mn, -1, -2) @ w_mn
    squares = np.square(gram)
    own = np.einsum("...ii->...i", gram)
    others = squares.sum(axis=-1) - np.square(own)
    return others / np.maximum(own, 1e-12)
