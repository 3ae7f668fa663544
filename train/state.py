"""The training state: everything that a run carries from one step to the next."""

import dataclasses
import functools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from model.config import ModelConfig
from model.parameters.specs import is_frozen, is_trained, merge, partition
from model.transformer import Params, abstract_params, init, logical_axes
from model.transformer import specs as specs_of_model
from train.experiment import Experiment
from train.optimizers import options as optimizers
from train.optimizers.frozen import Frozen, mark_frozen
from train.optimizers.guard import Guard, GuardState, new_guard_state
from train.parallel.table import Sharding, like_params, param_shardings, replicated


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The options that decide which arrays a state has.

    Attributes:
      model: the model's options.
      optimizer: its options decide which moments there are.
      guard: its options decide whether the state has recent losses.
      frozen: the frozen parameters, which have no moments.
    """

    model: ModelConfig
    optimizer: optimizers.Optimizer
    guard: Guard
    frozen: Frozen = Frozen()

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """The recipe of an experiment."""
        training = experiment.training
        return cls(experiment.model, experiment.optimizer, training.guard, training.frozen)

    @functools.cached_property
    def specs(self) -> Any:
        """The specs of all parameters (model/parameters/specs.py), with the frozen ones marked."""
        return mark_frozen(specs_of_model(self.model), self.frozen)


@struct.dataclass
class TrainState:
    """The training state, a pytree of arrays; a checkpoint holds all of it.

    Attributes:
      step: updates attempted so far, which is also the number of the next batch (int32).
      params: the parameters that the optimizer updates.
      frozen: the parameters that nothing updates; they have no gradient and no moments.
      untrained: the rest of the tree of `model.transformer.init`: state that the step updates, such as load biases.
      opt_state: the optimizer's moments and its learning rate.
      key: the raw key (uint32) from which step n draws its dropout by folding in n.
      guard: the counts of skipped steps and, if the guard skips outliers, recent losses and gradient norms.
    """

    step: jax.Array
    params: Any
    frozen: Any
    untrained: Any
    opt_state: Any
    key: jax.Array
    guard: GuardState

    @property
    def all_params(self) -> Params:
        """The tree that `model.transformer.forward` takes."""
        return with_trained(self, self.params)


class Parts(NamedTuple):
    """A tree with one leaf per parameter, split as in the state."""

    params: Any
    frozen: Any
    untrained: Any


def partition_params(recipe: Recipe, tree: Any) -> Parts:
    """Splits a tree with one leaf per parameter as the state does."""
    params, rest = partition(tree, recipe.specs, is_trained)
    _, specs = partition(recipe.specs, recipe.specs, is_trained)
    return Parts(params, *partition(rest, specs, is_frozen))


def with_trained(state: TrainState, params: Any) -> Params:
    """The tree that `model.transformer.forward` takes, with the given trained parameters."""
    whole: Params = merge(params, merge(state.frozen, state.untrained))
    return whole


def build_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The optimizer of the parameters that are trained."""
    return optimizers.build(recipe.optimizer, partition_params(recipe, recipe.specs).params)


def evaluation_params(optimizer: optimizers.Optimizer, state: TrainState) -> Params:
    """The tree that `model.transformer.forward` takes, with the parameters to evaluate."""
    return with_trained(state, optimizers.evaluation_params(optimizer, state.opt_state, state.params))


def new_state(recipe: Recipe, seed: int, params: Any = None) -> TrainState:
    """The state before the first step; call it under jit with out_shardings from `state_shardings`.

    Its parameters, trained or not, are drawn from the seed, unless their tree is given.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    parts = partition_params(recipe, init(recipe.model, init_key) if params is None else params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **parts._asdict(),
        opt_state=build_optimizer(recipe).init(parts.params),
        key=jax.random.key_data(run_key),
        guard=new_guard_state(recipe.guard),
    )


def abstract_state(recipe: Recipe) -> TrainState:
    """Shapes and dtypes of the state, without making an array."""
    return jax.eval_shape(lambda: new_state(recipe, 0))


def state_shardings(recipe: Recipe, mesh: jax.sharding.Mesh, table: Sharding) -> Any:
    """The sharding of every array of the state: moments are sharded as their parameters, scalars are replicated."""
    params = param_shardings(mesh, table, logical_axes(recipe.model), abstract_params(recipe.model))
    parts, state = partition_params(recipe, params), abstract_state(recipe)
    everywhere: Any = replicated(mesh)
    return TrainState(
        step=everywhere,
        **parts._asdict(),
        opt_state=like_params(state.opt_state, state.params, parts.params, mesh),
        key=everywhere,
        guard=jax.tree.map(lambda _: everywhere, state.guard),
    )


def init_sharded(recipe: Recipe, seed: int, shardings: Any, params: Any = None) -> TrainState:
    """The initial state: each device draws only its own shards; if `params` are given, their memory is reused."""
    start = jax.jit(new_state, static_argnums=0, out_shardings=shardings, donate_argnums=2)
    return start(recipe, seed, params)
