"""The loss on the validation split, as the training loop measures it: every target once, in fixed windows."""

import math

import jax

from model.errors import UserError
from train.data.batches.pipeline import EvaluationBatches
from train.data.shards.dataset import Dataset
from train.evaluation.measures import Entry, Tally
from train.experiment import Experiment
from train.parallel import feed
from train.parallel.table import layout_of
from train.state import TrainState
from train.step import compile_eval_step


class SplitEvaluation:
    """The validation split of a run's dataset, read once per call."""

    def __init__(self, experiment: Experiment, dataset: Dataset, mesh: jax.sharding.Mesh) -> None:
        """Args: the experiment, its open dataset, its mesh. Raises UserError when there is no token to predict."""
        self._rows = layout_of(mesh, experiment.sharding).placement(("batch", "sequence"))
        self._batch_size = experiment.data.batch_size
        # Documents that see each other are one segment, and padding another.
        self._isolated = not experiment.data.cross_document_attention or experiment.model.reads_lengths
        self._batches = EvaluationBatches(
            dataset,
            experiment.data,
            limit=experiment.evaluation.max_batches,
            rows=feed.local_rows(self._rows, self._batch_size),
        )
        self._covered = self._batches.coverage
        if not self._covered.tokens:
            limit = experiment.evaluation.max_batches
            part = "" if limit is None else f" in the first {limit} batches (evaluation.max_batches)"
            raise UserError(
                f"the validation split of {dataset.folder} has no token of text to predict{part}; hold out more text: "
                "data.validation=WholeFiles(), Tail(fraction=0.1) or SeparateText(path=...)"
            )
        self._step = compile_eval_step(experiment, mesh, dataset.tokenizer.end_of_document)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Loss per token in nats, perplexity per token, and bits per byte, of all batches that are evaluated.

        The loss is the mean over all counted targets, the ends of documents among them, as in training. Bits per byte
        are those of the text alone, as everywhere: the ends, which have no bytes, are in neither of the two sums.
        Where nothing marks the beginning of a document, its first token and the bytes of that are left out.
        """
        sums = []
        for batch in self._batches:
            sums.append(self._step(state, feed.place(batch, self._rows, self._batch_size, self._isolated)))
        # Sums over batches in double precision; within a batch they are float32.
        nll, end_nll = (math.fsum(float(s[name]) for s in sums) for name in ("nll", "end_nll"))
        covered = self._covered
        counted = sum(int(s["tokens"]) for s in sums)
        assert counted == covered.tokens + covered.ends, (counted, covered)
        entry = Entry(nll - end_nll, covered.tokens, covered.bytes, end_nll=end_nll, ends=covered.ends)
        return {name: estimate.value for name, estimate in Tally([entry]).measures().items()}
