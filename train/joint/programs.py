"""The programs of runs that train jointly: one step, and one evaluation of a batch, for the stacked states of all.

Every array of the stacked state has a first axis over the members; on a mesh it is whole on every device, and the other
axes are split as those of one state. The step gives the memory of the old state to the new one, so that K members hold
K states. A member that does not take part in a step, since it is ahead of the others or has ended, keeps its state.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from model.layout import Layout
from train.evaluation.validation import eval_step
from train.experiment import Experiment
from train.joint.groups import inputs_of, with_inputs
from train.objectives.interface import Batch
from train.parallel.mesh import make_mesh
from train.parallel.table import layout_of, replicated
from train.state import HeldState, StateConfig, TrainState, abstract_state, state_shardings
from train.statistics import Statistics
from train.step import Metrics, train_step

Key = tuple[Any, ...]  # of a program: a word, what it is compiled for, and the shapes of its batch


class JointPrograms:
    """The stacked state of K members, and the programs that read and update it.

    Attributes:
      steps: the number of steps that each member has taken in all.
    """

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        """Args: the experiments of the members, which `check_joint` accepts."""
        self.experiment, self.count = experiments[0], len(experiments)
        self._mesh = make_mesh(self.experiment.mesh)
        self._layout = layout_of(self._mesh, self.experiment.sharding)
        self._rows = self._layout.placement(("batch", "sequence"))
        self._config = StateConfig.of(self.experiment)
        self._own = state_shardings(self._config, self._mesh, self.experiment.sharding)
        self._stacked = jax.tree.map(_with_axis, self._own)
        inputs = inputs_of(experiments)
        self._names = tuple(inputs)
        self._inputs = tuple(np.asarray(values, np.float32) for values in inputs.values())
        self._state: TrainState | None = None
        self._compiled: dict[Key, jax.stages.Compiled] = {}
        self.steps = [0] * self.count

    def put(self, index: int, state: TrainState) -> None:
        """Copies a state into the place of a member."""
        if self._state is None:
            shapes = abstract_state(self._config)
            self._state = jax.jit(
                lambda: jax.tree.map(lambda x: jnp.zeros((self.count, *x.shape), x.dtype), shapes),
                out_shardings=self._stacked,
            )()
        self._state = self._put(self._state, state, index)
        self.steps[index] = int(state.step)

    def take(self, index: int) -> TrainState:
        """A copy of the state of a member."""
        state: TrainState = self._take(self._state, index)
        return state

    @functools.cached_property
    def _put(self) -> Any:
        return jax.jit(
            lambda stacked, state, index: jax.tree.map(lambda s, x: s.at[index].set(x), stacked, state),
            out_shardings=self._stacked,
            donate_argnums=0,
        )

    @functools.cached_property
    def _take(self) -> Any:
        return jax.jit(lambda stacked, index: jax.tree.map(lambda x: x[index], stacked), out_shardings=self._own)

    def is_compiled(self, key: Key) -> bool:
        """Whether a program is compiled."""
        return key in self._compiled

    def compile_step(self, key: Key, statistics: Statistics | None, batch: Batch) -> jax.stages.Compiled:
        """The step of all members, for batches of these shapes."""
        if key not in self._compiled:
            step = functools.partial(joint_step, self.experiment, self._layout, self._names, statistics)
            everywhere = replicated(self._mesh)
            jitted = jax.jit(
                step,
                in_shardings=(self._stacked, self._rows, everywhere, everywhere),
                out_shardings=(self._stacked, everywhere),
                donate_argnums=0,
            )
            batches = (batch,) * self.count
            self._compiled[key] = jitted.lower(self._state, batches, self._active({}), self._inputs).compile()
        return self._compiled[key]

    def step(self, key: Key, statistics: Statistics | None, batches: dict[int, Batch]) -> tuple[Metrics, ...]:
        """A step of the members that have batches; returns metrics for all, without meaning for the others."""
        some = next(iter(batches.values()))
        program = self.compile_step(key, statistics, some)
        stacked = tuple(batches.get(index, some) for index in range(self.count))
        state, self._state = self._state, None
        self._state, metrics = program(state, stacked, self._active(batches), self._inputs)
        for index in batches:
            self.steps[index] += 1
        found: tuple[Metrics, ...] = metrics
        return found

    def evaluate(self, key: Key, end: int | None, batches: dict[int, Batch]) -> tuple[dict[str, jax.Array], ...]:
        """The evaluation of the batches of some members; returns sums for all places."""
        some = next(iter(batches.values()))
        stacked = tuple(batches.get(index, some) for index in range(self.count))
        if key not in self._compiled:
            evaluation = functools.partial(joint_evaluation, self.experiment, self._layout, end)
            jitted = jax.jit(evaluation, in_shardings=(self._stacked, self._rows), out_shardings=replicated(self._mesh))
            self._compiled[key] = jitted.lower(self._state, stacked).compile()
        sums: tuple[dict[str, jax.Array], ...] = self._compiled[key](self._state, stacked)
        return sums

    def _active(self, batches: dict[int, Batch]) -> np.ndarray:
        return np.array([index in batches for index in range(self.count)])


class MemberState(HeldState):
    """The state of one member among the stacked ones."""

    def __init__(self, programs: JointPrograms, index: int) -> None:
        self._programs, self._index = programs, index

    def take(self) -> TrainState:
        """See `HeldState`."""
        return self._programs.take(self._index)


def joint_step(
    experiment: Experiment,
    layout: Layout,
    names: tuple[str, ...],
    statistics: Statistics | None,
    stacked: TrainState,
    batches: tuple[Batch, ...],
    active: jax.Array,
    inputs: tuple[jax.Array, ...],
) -> tuple[TrainState, tuple[Metrics, ...]]:
    """One update of all members that are active. Returns the stacked states, and the metrics of each member.

    Args:
      experiment: that of a member.
      layout: the layout of one member.
      names: the paths of the numbers in which the members differ.
      statistics: the statistics to compute.
      stacked: the states, every array with a first axis over the members.
      batches: the batch of each member.
      active: whether each member takes this step (K).
      inputs: the numbers of each path in `names` (K).
    """

    def update(state: TrainState, batch: Batch, takes: jax.Array, values: tuple[jax.Array, ...]) -> Any:
        own = with_inputs(experiment, dict(zip(names, values, strict=True)))
        after, metrics = train_step(own, layout, state, batch, statistics=statistics)
        return jax.tree.map(functools.partial(jnp.where, takes), after, state), metrics

    states, metrics = jax.vmap(update)(stacked, _stack(batches), active, inputs)
    return states, _unstack(metrics, len(batches))


def joint_evaluation(
    experiment: Experiment, layout: Layout, end: int | None, stacked: TrainState, batches: tuple[Batch, ...]
) -> tuple[dict[str, jax.Array], ...]:
    """The sums of `eval_step` for each member and its batch."""
    sums = jax.vmap(functools.partial(eval_step, experiment, layout, end))(stacked, _stack(batches))
    return _unstack(sums, len(batches))


def _stack(batches: tuple[Batch, ...]) -> Batch:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *batches)


def _unstack(tree: Any, count: int) -> tuple[Any, ...]:
    return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count))


def _with_axis(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
