"""Everything that a run carries from one step to the next."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from model.config import ModelConfig
from model.transformer import abstract_params, init, logical_axes
from train.optimizers import options as optimizers
from train.optimizers.guard import Guard, GuardState, new_guard_state
from train.parallel import sharding


@struct.dataclass
class TrainState:
    """A pure pytree, checkpointed whole.

    Attributes:
      step: updates attempted so far, which is also the number of the next batch (int32).
      params: the parameters.
      opt_state: the optimizer's moments and its learning rate.
      key: the raw key (uint32) from which step n draws its dropout by folding in n.
      guard: the counts of skipped steps and, if outliers are judged, recent losses and gradient norms.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    guard: GuardState


def new_state(
    model: ModelConfig, optimizer: optimizers.Optimizer, guard: Guard, seed: int, params: Any = None
) -> TrainState:
    """The state before the first step; call it under jit with out_shardings from `state_shardings`.

    Its parameters are drawn from the seed, unless they are given.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = init(model, init_key) if params is None else params
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizers.build(optimizer, logical_axes(model)).init(params),
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
    table: sharding.Sharding,
) -> Any:
    """Where every array of the state lives: optimizer moments as their parameters do, scalars everywhere."""
    params = abstract_params(model)
    placed = sharding.param_shardings(mesh, table, logical_axes(model), params)
    state = abstract_state(model, optimizer, guard)
    everywhere: Any = sharding.replicated(mesh)
    return TrainState(
        step=everywhere,
        params=placed,
        opt_state=sharding.like_params(state.opt_state, params, placed, mesh),
        key=everywhere,
        guard=jax.tree.map(lambda _: everywhere, state.guard),
    )


def init_sharded(
    model: ModelConfig, optimizer: optimizers.Optimizer, guard: Guard, seed: int, shardings: Any, params: Any = None
) -> TrainState:
    """The first state, each device drawing only its own shards, or with the parameters given."""
    start = jax.jit(new_state, static_argnums=(0, 1, 2), out_shardings=shardings)
    return start(model, optimizer, guard, seed, params)
