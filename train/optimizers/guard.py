"""Skips harmful steps inside the jitted step: steps with losses or gradients that are not finite or are outliers.

A step is skipped when its loss or gradient norm is not finite and, if `outliers` is set, when one of the two lies far
above its values of recent steps. The decision never leaves the device; counts come out with the metrics.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outliers:
    """Losses and gradient norms more than `sigma` standard deviations above the mean of the last accepted steps.

    Attributes:
      sigma: deviations above the mean that make an outlier.
      window: the number of accepted steps for mean and deviation; no step is an outlier until it is full.
    """

    sigma: float = 6.0
    window: int = 128

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.sigma <= 0:
            yield "sigma", f"must be above 0, got {self.sigma}"
        if self.window < 1:
            yield "window", f"must be at least 1, got {self.window}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """When to skip a step, and when to give up.

    Attributes:
      outliers: which finite values to skip; None skips only values that are not finite.
      max_consecutive: this many skipped steps in a row stop the run.
    """

    outliers: Outliers | None = None
    max_consecutive: int = 20

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.max_consecutive < 1:
            yield "max_consecutive", f"must be at least 1, got {self.max_consecutive}"


@struct.dataclass
class GuardState:
    """Counts and, if `outliers` is set, recent accepted losses and gradient norms (window, 2) in a ring buffer."""

    recent: jax.Array | None
    accepted: jax.Array
    skipped: jax.Array
    consecutive: jax.Array


def new_guard_state(guard: Guard) -> GuardState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    recent = jnp.zeros((guard.outliers.window, 2)) if guard.outliers else None
    return GuardState(recent=recent, accepted=zero, skipped=zero, consecutive=zero)


def accept_step(guard: Guard, state: GuardState, loss: jax.Array, grad_norm: jax.Array) -> tuple[jax.Array, GuardState]:
    """Whether the step may be taken (a boolean scalar), and the state after it."""
    values = jnp.stack([loss, grad_norm])
    accepted = jnp.all(jnp.isfinite(values))
    recent = state.recent
    if guard.outliers and recent is not None:
        limit = jnp.mean(recent, axis=0) + guard.outliers.sigma * jnp.std(recent, axis=0)
        accepted = accepted & ((state.accepted < guard.outliers.window) | jnp.all(values <= limit))
        slot = state.accepted % guard.outliers.window
        recent = recent.at[slot].set(jnp.where(accepted, values, recent[slot]))
    increment = accepted.astype(jnp.int32)
    return accepted, GuardState(
        recent=recent,
        accepted=state.accepted + increment,
        skipped=state.skipped + 1 - increment,
        consecutive=jnp.where(accepted, 0, state.consecutive + 1),
    )
