"""The loss on a split of a dataset, as the training loop measures it: every target once, in fixed windows.

An objective that draws a part of its batches has `DrawnValidation`: batch k of the split is drawn with a key of
`training.seed` and k, so that all evaluations of a run hide the same tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.layout import Layout
from train.data.shards.dataset import Dataset
from train.evaluation.measures import LossSums, Tally
from train.experiment import Experiment
from train.objectives.drawn import VALIDATION
from train.objectives.interface import Batch
from train.objectives.next_token import token_nll
from train.parallel import feed
from train.parallel.table import layout_of, replicated
from train.state import Held, StateConfig, TrainState, evaluation_params, state_shardings

if TYPE_CHECKING:
    from train.hooks.interface import Session


class BatchLimit(NamedTuple):
    """The number of batches to read, None for all, and the option that sets it."""

    option: str
    max_batches: int | None


EvaluationStep = Callable[[Any, Batch], dict[str, jax.Array]]  # of a state as the programs of a run take it


class SplitEvaluation:
    """A split of a dataset, read once per call.

    Attributes:
      step: the compiled evaluation of a batch; other splits can share it.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        mesh: jax.sharding.Mesh,
        *,
        split: str = "validation",
        limit: BatchLimit | None = None,
        step: EvaluationStep | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the split.

        Args:
          experiment: the options of the run.
          dataset: an open dataset that was made with the run's tokenizer.
          mesh: the mesh of the run.
          split: the name of the split.
          limit: the number of batches to read; None for that of `experiment.evaluation`.
          step: the step of the run's programs; None for one of `compile_eval_step`.
          alive: called for every batch, so that a watchdog sees progress.

        Raises:
          UserError: when there is no token to predict.
        """
        limit = limit or BatchLimit("evaluation", experiment.evaluation.max_batches)
        self._rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
        self._batch_size, self._alive = experiment.data.batch_size, alive
        self._isolated = feed.needs_segments(experiment.data, experiment.model)
        rows = feed.local_rows(self._rows, self._batch_size)
        self._batches = experiment.data.evaluation_batches(dataset, split, limit.max_batches, rows)
        self._coverage = self._batches.coverage
        if not self._coverage.tokens:
            max_batches = limit.max_batches
            part = "" if max_batches is None else f" in the first {max_batches} batches ({limit.option}.max_batches)"
            fix = "hold out more text: data.validation=HeldOutDocuments(), Tail(fraction=0.1) or SeparateText(path=...)"
            if limit.option != "evaluation":
                fix = "give a longer text or more batches"
            raise UserError(f"the {split} split of {dataset.folder} has no token of text to predict{part}; {fix}")
        self.step = step or compile_eval_step(experiment, mesh, dataset.tokenizer.end_of_document)

    def __call__(self, state: Held) -> dict[str, float]:
        """Loss per token in nats, perplexity per token, and bits per byte, of all batches that are evaluated.

        The loss is the mean over all counted targets, including the ends of documents, as in training. Bits per byte
        cover the text alone, as everywhere: the ends have no bytes and are in neither of the two sums. If no mark
        begins a document, its first token and the bytes of this token are left out.
        """
        outputs = []
        for batch in self._batches:
            outputs.append(self.step(state, feed.to_devices(batch, self._rows, self._batch_size, self._isolated)))
            self._alive()
        for sums in outputs:  # on an accelerator the batches are computed while the host waits here
            jax.block_until_ready(sums)
            self._alive()
        # Sums over batches in double precision; within a batch they are float32.
        nll, end_nll = (math.fsum(float(s[name]) for s in outputs) for name in ("nll", "end_nll"))
        coverage = self._coverage
        num_targets = sum(int(s["tokens"]) for s in outputs)
        assert num_targets == coverage.tokens + coverage.end_tokens, (num_targets, coverage)
        entry = LossSums(
            nll - end_nll, coverage.tokens, coverage.bytes, end_nll=end_nll, end_tokens=coverage.end_tokens
        )
        return {name: estimate.value for name, estimate in Tally([entry]).measures().items()}


def eval_step(
    experiment: Experiment, layout: Layout, end: int | None, state: TrainState, batch: Batch
) -> dict[str, jax.Array]:
    """See `compile_eval_step`."""
    params = evaluation_params(experiment.optimizer, state)
    nll_BT = token_nll(experiment.model, params, batch, layout) * batch["weights"]
    end_nll = jnp.zeros(()) if end is None else jnp.sum(nll_BT, where=batch["targets"] == end)
    return {"nll": jnp.sum(nll_BT), "end_nll": end_nll, "tokens": jnp.sum(batch["weights"] > 0, dtype=jnp.int32)}


def compile_eval_step(experiment: Experiment, mesh: jax.sharding.Mesh, end: int | None = None) -> EvaluationStep:
    """The jitted evaluation of one batch: sums of cross-entropies in nats and of counted tokens.

    `end_nll` is the part of `nll` from targets that equal `end`, the mark that ends documents.
    """
    table = experiment.sharding
    state_sharding = state_shardings(StateConfig.of(experiment), mesh, table)
    layout = layout_of(mesh, table)
    step = functools.partial(eval_step, experiment, layout, end)
    rows = layout.placement(("batch", "sequence"))
    return jax.jit(step, in_shardings=(state_sharding, rows), out_shardings=replicated(mesh))


class DrawnValidation:
    """The validation split, read once per call."""

    def __init__(self, session: "Session") -> None:
        """Opens the split. Raises UserError where it has no token that counts."""
        experiment = session.experiment
        self._placement = session.layout.placement(("batch", "sequence"))
        self._size, self._alive = experiment.data.batch_size, session.alive
        rows = feed.local_rows(self._placement, self._size)
        limit = experiment.evaluation.max_batches
        self._batches = experiment.data.evaluation_batches(session.dataset, "validation", limit, rows)
        self.step = compile_drawn_step(experiment, session.mesh)

    def __call__(self, state: Held) -> dict[str, float]:
        """The mean of the loss over the drawn tokens, and its exponential."""
        outputs = []
        for number, batch in enumerate(self._batches):
            on_devices = feed.to_devices(batch, self._placement, self._size, True)
            outputs.append(self.step(state, on_devices, jnp.int32(number)))
            self._alive()
        fetched = jax.device_get(outputs)
        self._alive()
        loss, weight = (math.fsum(float(sums[name]) for sums in fetched) for name in ("loss", "weight"))
        if not weight:
            raise UserError(
                "the validation split has so few tokens that none of them is drawn; hold out more text: "
                "data.validation=HeldOutDocuments(), Tail(fraction=0.1) or SeparateText(path=...)"
            )
        mean = loss / weight
        return {"loss": mean, "perplexity": math.exp(min(mean, 709.0)), "tokens": weight}


def drawn_step(
    experiment: Experiment, layout: Layout, state: TrainState, batch: Batch, number: jax.Array
) -> dict[str, jax.Array]:
    """The sums of the loss and of the weights over batch `number` of a split."""
    objective: Any = experiment.objective
    model = experiment.model
    key = jax.random.fold_in(jax.random.key(experiment.training.seed), VALIDATION)
    complete = objective.drawn(model, batch, jax.random.fold_in(key, number))
    params = evaluation_params(experiment.optimizer, state)
    _, sums = objective.loss(model, params, complete, dropout_key=None, layout=layout)
    return {"loss": sums.loss, "weight": objective.weight(complete)}


def compile_drawn_step(experiment: Experiment, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `drawn_step` on a mesh."""
    shardings = state_shardings(StateConfig.of(experiment), mesh, experiment.sharding)
    layout = layout_of(mesh, experiment.sharding)
    step = functools.partial(drawn_step, experiment, layout)
    placement = layout.placement(("batch", "sequence"))
    return jax.jit(step, in_shardings=(shardings, placement, replicated(mesh)), out_shardings=replicated(mesh))
