"""Steps that would do harm: not-a-number and outlier losses or gradients are skipped inside the jitted step.

A step is skipped when its loss or gradient norm is not finite, or lies more than `sigma` standard deviations above the
mean of the last `window` accepted steps. The decision never leaves the device; counts come out with the metrics.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """When to skip a step, and when to give up.

    Attributes:
      sigma: deviations above the mean that make an outlier; None skips only values that are not finite.
      window: accepted steps that mean and deviation are taken over; outliers are judged once it is full.
      max_consecutive: this many skipped steps in a row stop the run.
    """

    sigma: float | None = None
    window: int = 128
    max_consecutive: int = 20

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.sigma is not None and self.sigma <= 0:
            yield "sigma", f"must be above 0, or None, got {self.sigma}"
        for name in ("window", "max_consecutive"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"


@struct.dataclass
class GuardState:
    """Recent accepted losses and gradient norms (window, 2) in a ring, and counts."""

    recent: jax.Array
    accepted: jax.Array
    skipped: jax.Array
    consecutive: jax.Array


def new_guard_state(guard: Guard) -> GuardState:
    """Nothing seen yet."""
    zero = jnp.zeros((), jnp.int32)
    return GuardState(recent=jnp.zeros((guard.window, 2)), accepted=zero, skipped=zero, consecutive=zero)


def judge(guard: Guard, state: GuardState, loss: jax.Array, grad_norm: jax.Array) -> tuple[jax.Array, GuardState]:
    """Whether the step may be taken (a boolean scalar), and the state after it."""
    seen = jnp.stack([loss, grad_norm])
    good = jnp.all(jnp.isfinite(seen))
    if guard.sigma is not None:
        limit = jnp.mean(state.recent, axis=0) + guard.sigma * jnp.std(state.recent, axis=0)
        good = good & ((state.accepted < guard.window) | jnp.all(seen <= limit))
    slot = state.accepted % guard.window
    recent = state.recent.at[slot].set(jnp.where(good, seen, state.recent[slot]))
    one = good.astype(jnp.int32)
    return good, GuardState(
        recent=recent,
        accepted=state.accepted + one,
        skipped=state.skipped + 1 - one,
        consecutive=jnp.where(good, 0, state.consecutive + 1),
    )
