"""Each parameter's own learning rate and epsilon, where a model is larger than the base of its parametrisation.

The rules are those of model/parameters/parametrization.py. An optimizer whose updates do not depend on the size of
gradients is given gradients at their size in the base model: then its epsilon has the same effect as there.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from model.parameters.specs import Spec


def scaled(
    unit: optax.GradientTransformation, specs: Any, rate_factor: Callable[[Spec], float], scale_invariant: bool
) -> optax.GradientTransformation:
    """The transformation between two more, which multiply gradients and updates by a number for each parameter.

    Args:
      unit: the transformation; itself is returned where all numbers are 1, as in a base model.
      specs: the tree of the specs of the parameters.
      rate_factor: returns the factor on the update of a parameter.
      scale_invariant: whether gradients are multiplied, to have their size in the base model.
    """
    before = _multiply(jax.tree.map(lambda spec: 1 / spec.growth.gradient if scale_invariant else 1.0, specs))
    after = _multiply(jax.tree.map(rate_factor, specs))
    parts = [part for part in (before, unit, after) if part is not None]
    return unit if len(parts) == 1 else optax.chain(*parts)


def _multiply(factors: Any) -> optax.GradientTransformation | None:
    """Multiplies each update by its number of a tree; None if all are 1."""
    if all(factor == 1 for factor in jax.tree.leaves(factors)):
        return None
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u, factor: u * factor, updates, factors))
