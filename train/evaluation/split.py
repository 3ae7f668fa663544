"""The loss on the validation split, as the training loop measures it: every target once, in fixed windows."""

import math

import jax

from train import feed, sharding
from train.data.dataset import Dataset
from train.data.pipeline import EvaluationBatches
from train.experiment import Experiment
from train.state import TrainState
from train.step import compile_eval_step


class SplitEvaluation:
    """The validation split of a run's dataset, read once per call."""

    def __init__(self, experiment: Experiment, dataset: Dataset, mesh: jax.sharding.Mesh) -> None:
        """Args: the experiment, its open dataset, its mesh."""
        self._rows = sharding.named(mesh, experiment.sharding, ("batch", "sequence"))
        self._batch_size = experiment.data.batch_size
        self._isolated = not experiment.data.cross_document_attention
        self._batches = EvaluationBatches(
            dataset,
            experiment.data,
            limit=experiment.evaluation.max_batches,
            rows=feed.local_rows(self._rows, self._batch_size),
        )
        has_end = dataset.tokenizer.end_of_document is not None
        self._ends = self._batches.num_documents * has_end
        self._step = compile_eval_step(experiment, mesh)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Loss per token in nats, perplexity per token, and bits per byte.

        When only some batches are evaluated, bits per byte takes the targets per byte of the whole split. Where
        documents have no end, nothing comes before their first token, which is not scored (launch.evaluate counts it).
        """
        sums = []
        for batch in self._batches:
            sums.append(self._step(state, feed.place(batch, self._rows, self._batch_size, self._isolated)))
        # Sums over batches in double precision; within a batch they are float32.
        nll = math.fsum(float(s["nll"]) for s in sums)
        tokens = sum(int(s["tokens"]) for s in sums)
        loss = nll / max(tokens, 1)
        targets = tokens if self._batches.is_whole else self._batches.num_tokens + self._ends
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": loss / math.log(2) * targets / self._batches.num_bytes,
        }
