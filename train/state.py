"""Everything that a run carries from one step to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from model.config import ModelConfig
from model.specs import is_trained, merged, split
from model.transformer import Params, abstract_params, init, logical_axes, specs
from train.optimizers import options as optimizers
from train.optimizers.guard import Guard, GuardState, new_guard_state
from train.parallel.table import Sharding, like_params, param_shardings, replicated


@struct.dataclass
class TrainState:
    """A pure pytree, checkpointed whole.

    Attributes:
      step: updates attempted so far, which is also the number of the next batch (int32).
      params: the parameters that the optimizer moves.
      untrained: the rest of the tree of `model.transformer.init`: state that the step moves, such as load biases.
      opt_state: the optimizer's moments and its learning rate.
      key: the raw key (uint32) from which step n draws its dropout by folding in n.
      guard: the counts of skipped steps and, if outliers are judged, recent losses and gradient norms.
    """

    step: jax.Array
    params: Any
    untrained: Any
    opt_state: Any
    key: jax.Array
    guard: GuardState

    @property
    def all_params(self) -> Params:
        """The tree that `model.transformer.forward` takes."""
        whole: Params = merged(self.params, self.untrained)
        return whole


def split_params(model: ModelConfig, tree: Any) -> tuple[Any, Any]:
    """A tree with something for every parameter as `params` and `untrained` of the state."""
    return split(tree, specs(model), is_trained)


def build_optimizer(model: ModelConfig, optimizer: optimizers.Optimizer) -> optax.GradientTransformation:
    """The optimizer of the parameters that are trained."""
    return optimizers.build(optimizer, split_params(model, specs(model))[0])


def evaluation_params(optimizer: optimizers.Optimizer, state: TrainState) -> Params:
    """The tree that `model.transformer.forward` takes, with the parameters to evaluate."""
    whole: Params = merged(optimizers.evaluation_params(optimizer, state.opt_state, state.params), state.untrained)
    return whole


def new_state(
    model: ModelConfig, optimizer: optimizers.Optimizer, guard: Guard, seed: int, params: Any = None
) -> TrainState:
    """The state before the first step; call it under jit with out_shardings from `state_shardings`.

    Its parameters, trained or not, are drawn from the seed, unless their tree is given.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params, untrained = split_params(model, init(model, init_key) if params is None else params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        untrained=untrained,
        opt_state=build_optimizer(model, optimizer).init(params),
        key=jax.random.key_data(run_key),
        guard=new_guard_state(guard),
    )


def abstract_state(model: ModelConfig, optimizer: optimizers.Optimizer, guard: Guard) -> TrainState:
    """Shapes and dtypes of the state, without making an array."""
    return jax.eval_shape(lambda: new_state(model, optimizer, guard, 0))


def state_shardings(
    model: ModelConfig,
    optimizer: optimizers.Optimizer,
    guard: Guard,
    mesh: jax.sharding.Mesh,
    table: Sharding,
) -> Any:
    """Where every array of the state lives: optimizer moments as their parameters do, scalars everywhere."""
    placed = param_shardings(mesh, table, logical_axes(model), abstract_params(model))
    params, untrained = split_params(model, placed)
    state = abstract_state(model, optimizer, guard)
    everywhere: Any = replicated(mesh)
    return TrainState(
        step=everywhere,
        params=params,
        untrained=untrained,
        opt_state=like_params(state.opt_state, state.params, params, mesh),
        key=everywhere,
        guard=jax.tree.map(lambda _: everywhere, state.guard),
    )


def init_sharded(
    model: ModelConfig, optimizer: optimizers.Optimizer, guard: Guard, seed: int, shardings: Any, params: Any = None
) -> TrainState:
    """The first state, each device drawing only its own shards, or with the parameters given, which it takes over."""
    start = jax.jit(new_state, static_argnums=(0, 1, 2), out_shardings=shardings, donate_argnums=4)
    return start(model, optimizer, guard, seed, params)
