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
from model.recompute import HOST_MEMORY
from model.transformer import Params, abstract_params, init, logical_axes
from model.transformer import specs as specs_of_model
from train.experiment import Experiment
from train.optimizers import options as optimizers
from train.optimizers.frozen import Frozen, mark_frozen
from train.optimizers.guard import Guard, GuardState, new_guard_state
from train.parallel.table import Sharding, optimizer_shardings, param_shardings, replicated


@dataclasses.dataclass(frozen=True)
class StateConfig:
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
        """The options of an experiment."""
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
        return merge_trained(self, self.params)


class HeldState:
    """A state that lies in the arrays of a program which several runs share (train/joint)."""

    def take(self) -> TrainState:
        """Returns a copy in arrays of its own."""
        raise NotImplementedError


Held = TrainState | HeldState  # a state as the programs of a run take it (train/hooks/programs.py)


class PartitionedParams(NamedTuple):
    """A tree with one leaf per parameter, split as in the state."""

    params: Any
    frozen: Any
    untrained: Any


def partition_params(state_config: StateConfig, tree: Any) -> PartitionedParams:
    """Splits a tree with one leaf per parameter as the state does."""
    params, rest = partition(tree, state_config.specs, is_trained)
    _, specs = partition(state_config.specs, state_config.specs, is_trained)
    return PartitionedParams(params, *partition(rest, specs, is_frozen))


def merge_trained(state: TrainState, params: Any) -> Params:
    """The tree that `model.transformer.forward` takes, with the given trained parameters."""
    whole: Params = merge(params, merge(state.frozen, state.untrained))
    return whole


def build_optimizer(state_config: StateConfig) -> optax.GradientTransformation:
    """The optimizer of the parameters that are trained."""
    return optimizers.build(state_config.optimizer, partition_params(state_config, state_config.specs).params)


def evaluation_params(optimizer: optimizers.Optimizer, state: TrainState) -> Params:
    """The tree that `model.transformer.forward` takes, with the parameters to evaluate."""
    return merge_trained(state, optimizers.evaluation_params(optimizer, state.opt_state, state.params))


def keys_of(seed: int) -> jax.Array:
    """The two keys of a seed: that of the initial parameters, and that of the run."""
    return jax.random.split(jax.random.key(seed))


def init_state(state_config: StateConfig, seed: int, params: Any = None) -> TrainState:
    """The state before the first step; call it under jit with out_shardings from `state_shardings`.

    Its parameters, trained or not, are drawn from the seed, unless their tree is given.
    """
    init_key, run_key = keys_of(seed)
    parts = partition_params(state_config, init(state_config.model, init_key) if params is None else params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **parts._asdict(),
        opt_state=build_optimizer(state_config).init(parts.params),
        key=jax.random.key_data(run_key),
        guard=new_guard_state(state_config.guard),
    )


def abstract_state(state_config: StateConfig) -> TrainState:
    """Shapes and dtypes of the state, without making an array."""
    leaves, structure = _abstract_leaves(state_config)
    state: TrainState = jax.tree.unflatten(structure, leaves)
    return state


@functools.lru_cache(maxsize=64)  # the start of a run asks many times, and each time would trace all initial values
def _abstract_leaves(state_config: StateConfig) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    return jax.tree.flatten(jax.eval_shape(lambda: init_state(state_config, 0)))


def state_shardings(state_config: StateConfig, mesh: jax.sharding.Mesh, table: Sharding) -> Any:
    """The sharding of every array of the state: moments are sharded as their parameters, scalars are replicated.

    With `table.moments` "host" the arrays of the optimizer's state are in the memory of the host.
    """
    params = param_shardings(mesh, table, logical_axes(state_config.model), abstract_params(state_config.model))
    parts, state = partition_params(state_config, params), abstract_state(state_config)
    everywhere: Any = replicated(mesh)
    moments = optimizer_shardings(state.opt_state, state.params, parts.params, mesh)
    if table.moments == "host":
        moments = jax.tree.map(
            lambda leaf, where: where.with_memory_kind(HOST_MEMORY) if leaf.ndim else where, state.opt_state, moments
        )
    return TrainState(
        step=everywhere,
        **parts._asdict(),
        opt_state=moments,
        key=everywhere,
        guard=jax.tree.map(lambda _: everywhere, state.guard),
    )


def init_sharded(state_config: StateConfig, seed: int, shardings: Any, params: Any = None) -> TrainState:
    """The initial state: each device draws only its own shards; if `params` are given, their memory is reused."""
    start = jax.jit(init_state, static_argnums=0, out_shardings=shardings, donate_argnums=2)
    return start(state_config, seed, params)
