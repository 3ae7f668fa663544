"""Updates that are lost to rounding, where parameters and moments are stored in fewer bits than float32.

bfloat16 has 8 bits of precision. A number keeps its value when less than a 512th of it is added, and changes when more
than a 256th is added. Small updates do not add up either, since every step rounds to the same number again.
"""

from typing import Any

import jax
import jax.numpy as jnp

from train.experiment import Experiment
from train.optimizers.options import SGD, Adafactor, AdamW, Lion, Muon, ScheduleFreeAdamW

WARNING_SHARE = 0.1  # the smallest share of the parameters that gives a warning
_BFLOAT16_STEP = 2.0**-8  # for a number just above a power of two, the relative change that bfloat16 never rounds away

# The fields by which a stored average is multiplied at every step.
_AVERAGES: dict[type, tuple[str, ...]] = {
    AdamW: ("b1", "b2"),
    Lion: ("b2",),
    Muon: ("momentum", "adam_b1", "adam_b2"),
    SGD: ("momentum",),
    ScheduleFreeAdamW: ("b2",),
}


def low_precision_arrays(tree: Any) -> list[jax.Array]:
    """The arrays of a tree whose numbers have fewer bits than float32."""
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4]


def lost_updates(before: Any, updates: Any, after: Any) -> dict[str, jax.Array]:
    """The share of low-precision parameters whose value an update other than 0 left unchanged (a float32 scalar).

    Takes the trees of the parameters before the update, of the updates, and of the parameters after it. Empty when no
    parameter has low precision.
    """
    old = low_precision_arrays(before)
    if not old:
        return {}
    changes = [u for p, u in zip(*map(jax.tree.leaves, (before, updates)), strict=True) if low_precision_arrays(p)]
    unchanged = [(u != 0) & (p == q) for p, u, q in zip(old, changes, low_precision_arrays(after), strict=True)]
    return {"lost_updates": _true_share(unchanged)}


@jax.jit
def share_unchanged_at(params: Any, size: jax.Array | float) -> jax.Array:
    """The share of low-precision parameters that keep their value when `size` is added or subtracted (mean of both)."""
    up = [(p.astype(jnp.float32) + size).astype(p.dtype) == p for p in low_precision_arrays(params)]
    down = [(p.astype(jnp.float32) - size).astype(p.dtype) == p for p in low_precision_arrays(params)]
    return (_true_share(up) + _true_share(down)) / 2


def _true_share(marks: list[jax.Array]) -> jax.Array:
    return sum(jnp.sum(x, dtype=jnp.float32) for x in marks) / jnp.float32(sum(x.size for x in marks))


def update_size(experiment: Experiment) -> float | None:
    """The approximate largest update of one number at the peak learning rate; None where the gradient decides it."""
    option = experiment.optimizer
    if isinstance(option, SGD) or (isinstance(option, Adafactor) and option.scale_by_parameter):
        return None
    return experiment.schedule.peak * (option.rms if isinstance(option, Muon) else 1.0)


def warnings(experiment: Experiment, params: Any, opt_state: Any) -> list[str]:
    """Warnings before a run whose parameters or moments have low precision; most runs have none."""
    lines = []
    if low_precision_arrays(params) and (size := update_size(experiment)) is not None:
        share = float(share_unchanged_at(params, size))
        if share >= WARNING_SHARE:
            lines.append(
                f"WARNING: {share:.1%} of the parameters will keep their value: they are stored as bfloat16, and an "
                f"update of about {size:g} (at schedule.peak={experiment.schedule.peak:g}) is rounded away where a "
                "parameter is some 256 times as large. Set model.precision.parameters=float32, with "
                "model.precision.compute=bfloat16 for the speed (parameters and moments then take twice the memory), "
                "or raise schedule.peak. lost_updates in metrics.jsonl has the share at every step"
            )
    if low_precision_arrays(opt_state):
        lines += _stuck_moments(experiment)
    return lines


def _stuck_moments(experiment: Experiment) -> list[str]:
    option = experiment.optimizer
    why = (
        "the optimizer's averages are stored as bfloat16, as the parameters are, and an average multiplied by more "
        f"than 1 - 1/256 = {1 - _BFLOAT16_STEP:.4f} is rounded to its old value, so it hardly falls again"
    )
    remedy = "set model.precision.parameters=float32, with model.precision.compute=bfloat16 for the speed"
    lines = [
        f"WARNING: optimizer.{name}={getattr(option, name)}: {why}; lower it to 0.996 or less, or {remedy}"
        for name in _AVERAGES.get(type(option), ())
        if 1 - getattr(option, name) < _BFLOAT16_STEP
    ]
    if isinstance(option, Adafactor) and option.decay_rate > 0:
        # At this step the factor of the average, 1 - step^-decay_rate, passes the limit.
        step = _BFLOAT16_STEP ** (-1 / option.decay_rate)
        if experiment.training.num_steps > step:
            given = f"optimizer.decay_rate={option.decay_rate}"
            lines.append(f"WARNING: {given}: from step {step:,.0f} on {why}; lower it, or {remedy}")
    return lines
