"""Learning rates as functions of the step.

Every schedule warms up linearly: step s of the first `warmup_steps` runs at peak * (s + 1) / (warmup_steps + 1).
Cosine: Loshchilov, Hutter 2017, "SGDR", equation 5. Inverse square root: Vaswani et al. 2017, section 5.3.
Warmup-stable-decay: Hu et al. 2024, "MiniCPM", section 4.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WithWarmup:
    peak: float
    warmup_steps: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.peak <= 0:
            yield "peak", f"the learning rate must be above 0, got {self.peak}"
        if self.warmup_steps < 0:
            yield "warmup_steps", f"must be 0 or more, got {self.warmup_steps}"
        final = getattr(self, "final", 0.0)
        if not 0 <= final <= max(self.peak, 0):
            yield "final", f"must lie between 0 and peak={self.peak}, got {final}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(_WithWarmup):
    """Stays at the peak."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(_WithWarmup):
    """Half a cosine from the peak; it would reach `final` at step num_steps."""

    final: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(_WithWarmup):
    """A straight line from the peak; it would reach `final` at step num_steps."""

    final: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(_WithWarmup):
    """peak * sqrt(w / s) after the warmup, with w the larger of warmup_steps and 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_WithWarmup):
    """Stays at the peak until the last `decay_steps`, then decays to `final`."""

    decay_steps: int
    final: float = 0.0
    shape: Literal["linear", "cosine", "sqrt"] = "linear"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if self.decay_steps < 1:
            yield "decay_steps", f"must be at least 1, got {self.decay_steps}"


Schedule = Constant | Cosine | Linear | InverseSquareRoot | WarmupStableDecay


def learning_rate(schedule: Schedule, step: jax.Array | int, num_steps: int) -> jax.Array:
    """The rate at which step `step` (from 0) of a run of `num_steps` updates the parameters, float32."""
    step = jnp.asarray(step, jnp.float32)
    warmup = jnp.minimum(1.0, (step + 1) / (schedule.warmup_steps + 1))
    return jnp.where(step < schedule.warmup_steps, schedule.peak * warmup, _after_warmup(schedule, step, num_steps))


def _after_warmup(schedule: Schedule, step: jax.Array, num_steps: int) -> jax.Array:
    if isinstance(schedule, InverseSquareRoot):
        start = max(schedule.warmup_steps, 1)
        return schedule.peak * jnp.sqrt(start / jnp.maximum(step, start))
    if isinstance(schedule, Constant):
        return jnp.full_like(step, schedule.peak)
    if isinstance(schedule, WarmupStableDecay):
        start, shape = num_steps - schedule.decay_steps, schedule.shape
    else:
        start, shape = schedule.warmup_steps, "cosine" if isinstance(schedule, Cosine) else "linear"
    progress = jnp.clip((step - start) / max(num_steps - start, 1), 0.0, 1.0)
    factor = {"linear": 1 - progress, "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)), "sqrt": 1 - jnp.sqrt(progress)}[
        shape
    ]
    return schedule.final + (schedule.peak - schedule.final) * factor
