"""The interface of an architecture, and the parts that all of them share.

An autoencoder writes an activation x as a sparse sum of directions, its features f:

    f = sparse(W_enc (x - b_dec) + b_enc)        y = W_dec f + b_dec

A transcoder writes another activation of the same token, so that it does not subtract b_dec. The axes: B tokens, D the
width of the input, O that of the output, M features.
"""

import abc
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.inspection.features.autoencoders.dead import Resampling

Params = dict[str, jax.Array]


class Inputs(NamedTuple):
    """The tokens of a step.

    Attributes:
      x_BD: the inputs, of which an autoencoder's decoder bias has been subtracted.
      target_BO: the activations to write.
      weights_B: 1 for a token, 0 for padding; float32.
    """

    x_BD: jax.Array
    target_BO: jax.Array
    weights_B: jax.Array

    def mean(self, values_B: jax.Array) -> jax.Array:
        """The mean over tokens."""
        return jnp.sum(values_B * self.weights_B) / jnp.maximum(jnp.sum(self.weights_B), 1.0)

    def mean_square(self, output_BO: jax.Array) -> jax.Array:
        """The mean over tokens of the squared distance from the target."""
        return self.mean(jnp.sum(jnp.square(output_BO - self.target_BO), axis=-1))


class Loss(NamedTuple):
    """The loss of a step.

    Attributes:
      total: the sum of its terms, to minimise.
      features_BM: the features.
      output_BO: the output.
      terms: the terms by name; `reconstruction` is the mean squared distance from the target.
    """

    total: jax.Array
    features_BM: jax.Array
    output_BO: jax.Array
    terms: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Published:
    """Arrays and settings of an architecture as SAELens names them.

    Attributes:
      architecture: its name there.
      settings: entries of cfg.json.
      arrays: the tensors, without W_enc, W_dec and b_dec.
    """

    architecture: str
    settings: dict[str, float | int | bool]
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(abc.ABC):
    """What makes features sparse."""

    def problems_with(self, width: int, output_width: int) -> Iterator[tuple[str, str]]:
        """Yields the fields that do not fit so many features or such an output, with the problem."""
        yield from ()

    def own_parameters(self, width: int) -> Params:
        """The parameters beside encoder, decoder and decoder bias, with their initial values."""
        return {"encoder_bias": jnp.zeros(width, jnp.float32)}

    @abc.abstractmethod
    def encode(self, params: Params, x_BD: jax.Array) -> jax.Array:
        """The features (B, M) of inputs, as they are used after training."""

    @abc.abstractmethod
    def loss(self, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array) -> Loss:
        """The loss of a step.

        Args:
          params: the parameters.
          inputs: the tokens.
          dead_M: whether each feature has not fired for long.
          step: the number of the step, from 0, for penalties that warm up.
        """

    def after_step(self, params: Params, features_BM: jax.Array, weights_B: jax.Array) -> Params:
        """The parameters after an update, with those set that no gradient trains."""
        return params

    def resampler(self) -> Resampling | None:
        """The option that gives dead features new directions, or None."""
        return None

    @abc.abstractmethod
    def published(self, params: dict[str, np.ndarray]) -> Published:
        """The form in SAELens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Penalized(Architecture):
    """An architecture whose penalty grows linearly over the first `warmup_steps` steps."""

    warmup_steps: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.warmup_steps < 0:
            yield "warmup_steps", f"must be 0 or more, got {self.warmup_steps}"

    def strength(self, step: jax.Array) -> jax.Array:
        """The share of the penalty at a step."""
        return jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1.0) / max(self.warmup_steps, 1))


def pre_activations(params: Params, x_BD: jax.Array) -> jax.Array:
    """W_enc x + b_enc, (B, M)."""
    return x_BD @ params["encoder"] + params["encoder_bias"]


def decode(params: Params, features_BM: jax.Array) -> jax.Array:
    """W_dec f + b_dec, (B, O)."""
    return features_BM @ params["decoder"] + params["decoder_bias"]


def decoder_norms(params: Params) -> jax.Array:
    """The length of each feature's direction, (M,)."""
    return jnp.linalg.norm(params["decoder"], axis=1)
