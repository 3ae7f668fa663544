"""The compiled programs of a run: its step, and its evaluation of a batch.

The programs here are those of a run alone. Those of several runs that train in one program are in train/joint; to the
loop and its hooks they look the same.
"""

import jax

from train.evaluation.validation import EvaluationStep, compile_eval_step
from train.experiment import Experiment
from train.state import Held, TrainState
from train.statistics import Statistics
from train.step import compile_train_step


class Programs:
    """See the module.

    Attributes:
      shows_progress: whether the run shows its progress and its messages, or another does so for it.
    """

    shows_progress = True

    def compile_step(
        self, experiment: Experiment, mesh: jax.sharding.Mesh, statistics: Statistics | None = None
    ) -> jax.stages.Wrapped:
        """The step, see `train.step.compile_train_step`; it takes a state as `hold` returns it."""
        return compile_train_step(experiment, mesh, statistics)

    def compile_evaluation(self, experiment: Experiment, mesh: jax.sharding.Mesh, end: int | None) -> EvaluationStep:
        """The evaluation of a batch, see `compile_eval_step`; it takes a state as `hold` returns it."""
        return compile_eval_step(experiment, mesh, end)

    def hold(self, state: TrainState) -> Held:
        """The state at the start of a session, as the programs take it; the caller gives its own up."""
        return state


ALONE = Programs()
