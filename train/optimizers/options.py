"""Optimizers: options here, algorithms from optax.

AdamW: Loshchilov, Hutter 2019. Adafactor: Shazeer, Stern 2018. Lion: Chen et al. 2023. Muon: Jordan 2024, with the
update size of Liu et al. 2025, "Muon is Scalable for LLM Training". Schedule-free: Defazio et al. 2024.

Weight decay is decoupled and multiplied by the learning rate. It applies to matrices, tables and filters, and not to
parameters that only scale or shift (norm scales, biases, layer-scale gains, attention sinks, decay rates): see the
column `weight_decay` of the roles in model/parameters/specs.py. `decay_also` and `decay_never` change that for a
role, such as "embedding", or for the parameters whose dotted name matches a pattern, such as "blocks.ffn.*" (shell
wildcards); `decay_never` overrides `decay_also`.

Where the model has a parametrisation (model/parameters/parametrization.py), specs say how much larger each parameter is
than in the base model, and `scaled` gives each its own learning rate and epsilon. Decay is outside of it: its pull per
step, rate * weight_decay, is that of the base model.
"""

import dataclasses
import fnmatch
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from model.options.words import nearest
from model.parameters.names import path_name
from model.parameters.parametrization import CompleteP, MuP, Standard
from model.parameters.specs import ROLES, Spec, specs_by_name
from train.optimizers.growth import scaled

TRAINED_ROLES = tuple(role for role, traits in ROLES.items() if traits.trained)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WithWeightDecay:
    weight_decay: float = 0.0
    decay_also: tuple[str, ...] = ()
    decay_never: tuple[str, ...] = ()

    # Whether updates do not depend on the size of gradients, so that these can be brought to that in the base model.
    scale_invariant: ClassVar[bool] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.weight_decay < 0:
            yield "weight_decay", f"must be 0 or more, got {self.weight_decay}"
        for name in ("b1", "b2", "momentum", "decay_rate", "adam_b1", "adam_b2"):
            value = getattr(self, name, None)
            if value is not None and not 0 <= value < 1:
                yield name, f"must be at least 0 and below 1, got {value}"
        if getattr(self, "epsilon", 1.0) <= 0:
            yield "epsilon", f"must be above 0, got {getattr(self, 'epsilon', None)}"

    def problems_with(self, specs: Any) -> Iterator[tuple[str, str]]:
        """Yields the entries of `decay_also` and `decay_never` that are no trained role and match no parameter."""
        known = {name: spec for name, spec in specs_by_name(specs).items() if spec.trained}
        for field in ("decay_also", "decay_never"):
            for entry in getattr(self, field):
                if entry not in TRAINED_ROLES and not any(_matches(entry, *one) for one in known.items()):
                    hint = nearest(entry, known if "." in entry else TRAINED_ROLES)
                    yield field, f"{entry!r} is not a role, and no trained parameter of this model matches it; {hint}"

    def decays(self, name: str, spec: Spec) -> bool:
        """Whether weight decay applies to a parameter."""
        if any(_matches(entry, name, spec) for entry in self.decay_never):
            return False
        return spec.traits.weight_decay or any(_matches(entry, name, spec) for entry in self.decay_also)

    def rate_factor(self, spec: Spec) -> float:
        """The factor on a parameter's learning rate that its growth asks for; 1 in a base model."""
        return spec.growth.adam_rate

    def clashes(self, parametrization: Standard) -> Iterator[tuple[str, str]]:
        """Yields the fields for which a parametrisation has no rule, with the problem; "" for the optimizer itself."""
        yield from ()


def _matches(entry: str, name: str, spec: Spec) -> bool:
    """Whether an entry of `decay_also` or `decay_never`, a role or a pattern of dotted names, matches a parameter."""
    return spec.role == entry if entry in ROLES else fnmatch.fnmatchcase(name, entry)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(_WithWeightDecay):
    """Adam with decoupled weight decay."""

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(_WithWeightDecay):
    """Factored second moments; `momentum` None keeps no first moment."""

    decay_rate: float = 0.8
    momentum: float | None = None
    scale_by_parameter: bool = False

    def clashes(self, parametrization: Standard) -> Iterator[tuple[str, str]]:
        """See `AdamW`."""
        if self.scale_by_parameter and isinstance(parametrization, MuP):
            yield "scale_by_parameter", _no_rule(parametrization, "updates relative to a parameter; set it False")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(_WithWeightDecay):
    """The sign of an interpolated momentum."""

    b1: float = 0.9
    b2: float = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(_WithWeightDecay):
    """Orthogonalised momentum for hidden matrices; Adam for tables, filters, norms and biases; both Nesterov.

    The matrix of each layer, expert and recurrent head is orthogonalised by itself, from all inputs to all outputs.
    `rms` sets the root mean square of an update per unit of learning rate, so that rates tuned for AdamW carry over.
    """

    momentum: float = 0.95
    num_iterations: int = 5
    rms: float = 0.2
    adam_b1: float = 0.9
    adam_b2: float = 0.95

    def rate_factor(self, spec: Spec) -> float:
        """The factor with which the spectral norm of an update grows as (outputs / inputs)^1/2.

        Yang, Simon, Bernstein 2023, "A Spectral Condition for Feature Learning". An orthogonalised update whose entries
        have a fixed size has a norm of the root of its longer side.
        """
        growth = spec.growth
        if not spec.is_hidden_matrix:
            return growth.adam_rate
        return growth.depth_rate * (growth.outputs / growth.inputs / max(growth.outputs, growth.inputs)) ** 0.5

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if self.num_iterations < 1:
            yield "num_iterations", f"must be at least 1, got {self.num_iterations}"
        if self.rms <= 0:
            yield "rms", f"must be above 0, got {self.rms}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(_WithWeightDecay):
    """Stochastic gradient descent; `momentum` 0 is plain."""

    momentum: float = 0.9
    nesterov: bool = False

    scale_invariant: ClassVar[bool] = False

    def rate_factor(self, spec: Spec) -> float:
        """The factor of Yang et al. 2022, "Tensor Programs V", table 8."""
        return spec.growth.outputs / spec.growth.inputs

    def clashes(self, parametrization: Standard) -> Iterator[tuple[str, str]]:
        """See `AdamW`."""
        if isinstance(parametrization, CompleteP):
            yield "", _no_rule(parametrization, "SGD; use AdamW, or MuP, which has one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(_WithWeightDecay):
    """AdamW with averaging in place of a decaying schedule; give it a `Constant` one."""

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if self.b1 <= 0:
            yield "b1", f"interpolates between two sequences and must be above 0, got {self.b1}"


def _no_rule(parametrization: Standard, thing: str) -> str:
    return f"model.parametrization={type(parametrization).__name__} has no rule for {thing}"


Optimizer = AdamW | Adafactor | Lion | Muon | SGD | ScheduleFreeAdamW


def build(option: Optimizer, specs: Any) -> optax.GradientTransformation:
    """Returns the optax transformation; the learning rate is an entry of its state (see `set_learning_rate`).

    Args:
      option: the optimizer.
      specs: a tree of the specs (model/parameters/specs.py) of the parameters that it updates.
    """
    # The rate is float32 whatever the parameters' format: the first step must not change the formats of the state.
    factory = optax.inject_hyperparams(
        lambda learning_rate: _chain(option, specs, learning_rate), hyperparam_dtype=jnp.float32
    )
    return factory(learning_rate=0.0)


def set_learning_rate(opt_state: Any, learning_rate: jax.Array) -> Any:
    """The optimizer state with the rate of its next update."""
    return opt_state._replace(hyperparams=opt_state.hyperparams | {"learning_rate": learning_rate})


def evaluation_params(option: Optimizer, opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate: the averages of a schedule-free run, else the trained parameters."""
    if isinstance(option, ScheduleFreeAdamW):
        averaged = optax.contrib.schedule_free_eval_params(opt_state.inner_state, params)
        return jax.tree.map(lambda a, p: a.astype(p.dtype), averaged, params)
    return params


def _chain(option: Optimizer, specs: Any, learning_rate: Any) -> optax.GradientTransformation:
    decay = decay_mask(option, specs)

    def own_rates(unit: optax.GradientTransformation) -> optax.GradientTransformation:
        return scaled(unit, specs, option.rate_factor, option.scale_invariant)

    if isinstance(option, AdamW):
        return optax.chain(
            own_rates(optax.scale_by_adam(option.b1, option.b2, option.epsilon)),
            optax.add_decayed_weights(option.weight_decay, decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    if isinstance(option, Lion):
        return optax.chain(
            own_rates(optax.scale_by_lion(option.b1, option.b2)),
            optax.add_decayed_weights(option.weight_decay, decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    if isinstance(option, SGD):
        # Momentum 0 needs no trace at all.
        trace = optax.trace(option.momentum, option.nesterov) if option.momentum else optax.identity()
        weight_decay = optax.add_decayed_weights(option.weight_decay, decay)
        return optax.chain(own_rates(trace), weight_decay, optax.scale_by_learning_rate(learning_rate))
    if isinstance(option, Adafactor):
        unit = optax.adafactor(
            decay_rate=option.decay_rate,
            momentum=option.momentum,
            multiply_by_parameter_scale=option.scale_by_parameter,
        )
        # Adafactor's updates already point downhill.
        weight_decay = optax.add_decayed_weights(-option.weight_decay, decay)
        return optax.chain(own_rates(unit), weight_decay, optax.scale(learning_rate))
    if isinstance(option, Muon):
        unit = optax.contrib.muon(
            learning_rate=1.0,
            beta=option.momentum,
            ns_steps=option.num_iterations,
            consistent_rms=option.rms,
            adam_b1=option.adam_b1,
            adam_b2=option.adam_b2,
            muon_weight_dimension_numbers=lambda params: muon_dimensions(specs),
        )
        # Decay is applied outside: optax's Muon would decay every parameter that Adam updates, also norms and biases.
        weight_decay = optax.add_decayed_weights(-option.weight_decay, decay)
        return optax.chain(own_rates(unit), weight_decay, optax.scale(learning_rate))
    rms = optax.scale_by_rms(decay=option.b2, eps=option.epsilon, eps_in_sqrt=False, bias_correction=True)
    inner = optax.chain(
        own_rates(rms),
        optax.add_decayed_weights(option.weight_decay, decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _schedule_free(inner, learning_rate, option.b1)


def _schedule_free(inner: Any, learning_rate: Any, b1: float) -> optax.GradientTransformation:
    """optax's wrapper with float32 scalars from the start; for bfloat16 parameters optax begins with bfloat16 ones."""
    free = optax.contrib.schedule_free(inner, learning_rate, b1=b1, state_dtype=jnp.float32)

    def init(params: Any) -> Any:
        zero = jnp.zeros((), jnp.float32)
        return free.init(params)._replace(b1=jnp.asarray(b1, jnp.float32), weight_sum=zero, max_lr=zero)

    return optax.GradientTransformationExtraArgs(init, free.update)


def decay_mask(option: Optimizer, specs: Any) -> Any:
    """A tree of booleans: whether weight decay applies to each parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, spec: option.decays(path_name(path), spec), specs)


def muon_dimensions(specs: Any) -> Any:
    """For each parameter that Muon orthogonalises, its input axes and output axes; None for all others."""

    def dimensions(spec: Spec) -> Any:
        return optax.contrib.MuonDimensionNumbers(spec.inputs, spec.outputs) if spec.is_hidden_matrix else None

    return jax.tree.map(dimensions, specs)
