"""Optimizers: options here, algorithms from optax.

AdamW: Loshchilov, Hutter 2019. Adafactor: Shazeer, Stern 2018. Lion: Chen et al. 2023. Muon: Jordan 2024, with the
update size of Liu et al. 2025, "Muon is Scalable for LLM Training". Schedule-free: Defazio et al. 2024.

Weight decay is decoupled and multiplied by the learning rate. It spares the parameters whose dotted name, such as
`blocks.attention_norm.scale`, matches a pattern of `no_decay` (shell wildcards).
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.parallel.sharding import path_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decayed:
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ("*.scale", "*bias")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.weight_decay < 0:
            yield "weight_decay", f"must be 0 or more, got {self.weight_decay}"
        for name in ("b1", "b2", "momentum", "decay_rate", "adam_b1", "adam_b2"):
            value = getattr(self, name, None)
            if value is not None and not 0 <= value < 1:
                yield name, f"must be from 0 up to but not 1, got {value}"
        if getattr(self, "epsilon", 1.0) <= 0:
            yield "epsilon", f"must be above 0, got {getattr(self, 'epsilon', None)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(_Decayed):
    """Adam with decoupled weight decay."""

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(_Decayed):
    """Factored second moments; `momentum` None keeps no first moment."""

    decay_rate: float = 0.8
    momentum: float | None = None
    scale_by_parameter: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(_Decayed):
    """The sign of an interpolated momentum."""

    b1: float = 0.9
    b2: float = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(_Decayed):
    """Orthogonalised momentum for the matrices of the blocks; Adam for embeddings, norms and biases; both Nesterov.

    `rms` sets the root mean square of an update per unit of learning rate, so that rates tuned for AdamW carry over.
    """

    momentum: float = 0.95
    num_iterations: int = 5
    rms: float = 0.2
    adam_b1: float = 0.9
    adam_b2: float = 0.95

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from super().problems()
        if self.num_iterations < 1:
            yield "num_iterations", f"must be at least 1, got {self.num_iterations}"
        if self.rms <= 0:
            yield "rms", f"must be above 0, got {self.rms}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(_Decayed):
    """Stochastic gradient descent; `momentum` 0 is plain."""

    momentum: float = 0.9
    nesterov: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(_Decayed):
    """AdamW with averaging in place of a decaying schedule; give it a `Constant` one."""

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from super().problems()
        if self.b1 <= 0:
            yield "b1", f"interpolates between two sequences and must be above 0, got {self.b1}"


Optimizer = AdamW | Adafactor | Lion | Muon | SGD | ScheduleFreeAdamW


def build(option: Optimizer, axes: Any) -> optax.GradientTransformation:
    """The optax transformation, its learning rate an entry of its state (see `set_learning_rate`).

    Args:
      option: the choice.
      axes: the tree of `model.transformer.logical_axes`, by which Muon tells inputs from outputs.
    """
    # Structures are compared by optax where it masks, so the mask is a function of the tree that it is handed.
    # The rate is float32 whatever the parameters are: a state must not change its formats at the first step.
    factory = optax.inject_hyperparams(
        lambda learning_rate: _chain(option, axes, learning_rate), hyperparam_dtype=jnp.float32
    )
    return factory(learning_rate=0.0)


def set_learning_rate(opt_state: Any, learning_rate: jax.Array) -> Any:
    """The optimizer state with the rate of its next update."""
    return opt_state._replace(hyperparams=opt_state.hyperparams | {"learning_rate": learning_rate})


def evaluation_params(option: Optimizer, opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate: the averaged ones of a schedule-free run, else those that are trained."""
    if isinstance(option, ScheduleFreeAdamW):
        averaged = optax.contrib.schedule_free_eval_params(opt_state.inner_state, params)

        def choose(path: Any, a: jax.Array, p: jax.Array) -> jax.Array:
            # A load bias is moved by the step and not by the optimizer, which has no average of it.
            return p if path_name(path).endswith("load_bias") else a.astype(p.dtype)

        return jax.tree_util.tree_map_with_path(choose, averaged, params)
    return params


def _chain(option: Optimizer, axes: Any, learning_rate: Any) -> optax.GradientTransformation:
    decay = decay_mask(option.no_decay)
    if isinstance(option, AdamW):
        return optax.adamw(
            learning_rate,
            b1=option.b1,
            b2=option.b2,
            eps=option.epsilon,
            weight_decay=option.weight_decay,
            mask=decay,
        )
    if isinstance(option, Lion):
        return optax.lion(learning_rate, b1=option.b1, b2=option.b2, weight_decay=option.weight_decay, mask=decay)
    if isinstance(option, SGD):
        # Momentum 0 needs no trace at all.
        trace = [optax.trace(option.momentum, option.nesterov)] if option.momentum else []
        decayed = optax.add_decayed_weights(option.weight_decay, decay)
        return optax.chain(*trace, decayed, optax.scale_by_learning_rate(learning_rate))
    if isinstance(option, Adafactor):
        unit = optax.adafactor(
            decay_rate=option.decay_rate,
            momentum=option.momentum,
            multiply_by_parameter_scale=option.scale_by_parameter,
        )
        decayed = optax.add_decayed_weights(-option.weight_decay, decay)  # adafactor's updates already point downhill
        return optax.chain(unit, decayed, optax.scale(learning_rate))
    if isinstance(option, Muon):
        unit = optax.contrib.muon(
            learning_rate=1.0,
            beta=option.momentum,
            ns_steps=option.num_iterations,
            consistent_rms=option.rms,
            adam_b1=option.adam_b1,
            adam_b2=option.adam_b2,
            muon_weight_dimension_numbers=lambda params: muon_dimensions(axes),
        )
        # Decay stands outside: optax's Muon would decay all that Adam updates, norms and biases included.
        decayed = optax.add_decayed_weights(-option.weight_decay, decay)
        return optax.chain(unit, decayed, optax.scale(learning_rate))
    inner = optax.chain(
        optax.scale_by_rms(decay=option.b2, eps=option.epsilon, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(option.weight_decay, decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _schedule_free(inner, learning_rate, option.b1)


def _schedule_free(inner: Any, learning_rate: Any, b1: float) -> optax.GradientTransformation:
    """optax's, with its scalars in float32 from the start: it would begin with those of bfloat16 parameters in that."""
    free = optax.contrib.schedule_free(inner, learning_rate, b1=b1, state_dtype=jnp.float32)

    def init(params: Any) -> Any:
        zero = jnp.zeros((), jnp.float32)
        return free.init(params)._replace(b1=jnp.asarray(b1, jnp.float32), weight_sum=zero, max_lr=zero)

    return optax.GradientTransformationExtraArgs(init, free.update)


def decay_mask(no_decay: tuple[str, ...]) -> Callable[[Any], Any]:
    """A function of a parameter tree that marks the parameters that decay."""

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not any(fnmatch.fnmatch(path_name(path), pattern) for pattern in no_decay), params
        )

    return mask


def muon_dimensions(axes: Any) -> Any:
    """For each matrix of the blocks, the axes it contracts over and those it makes; None for all other parameters."""

    def dimensions(path: Any, names: tuple[str, ...]) -> Any:
        inner = [i for i, name in enumerate(names) if name != "layer"]
        if len(inner) > 2 and names[inner[0]] == "expert":
            inner = inner[1:]  # a matrix for each expert
        if len(inner) < 2 or "layer" not in names or path_name(path).endswith("bias"):
            return None
        reads_stream = names[inner[0]] == "embed"
        reduction, output = (inner[:1], inner[1:]) if reads_stream else (inner[:-1], inner[-1:])
        return optax.contrib.MuonDimensionNumbers(tuple(reduction), tuple(output))

    return jax.tree_util.tree_map_with_path(dimensions, axes, is_leaf=lambda x: isinstance(x, tuple))
