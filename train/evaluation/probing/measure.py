"""The findings of a probe on a model: its sequences, as ids, in batches through one compiled program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train.data.tokenizers.interface import Tokenizer
from train.evaluation.perplexity import default_batch_size
from train.evaluation.probes.interface import Findings, Prepared, Reader, Sequences, generators
from train.evaluation.token_scores import compile_token_scores
from train.experiment import Experiment
from train.parallel import feed
from train.parallel.table import MeshLayout


def reader_of(experiment: Experiment, tokenizer: Tokenizer) -> Reader:
    """The facts about a run's model that probes need."""
    data, model = experiment.data, experiment.model
    if data.known_task is not None:
        return Reader(model.vocab_size, model.context_length, trained_on=data.known_task)
    marks = tokenizer.begin_of_document, tokenizer.end_of_document
    return Reader(model.vocab_size, model.context_length, *marks, encode=tokenizer.encode)


def measure(
    experiment: Experiment,
    params: Any,
    layout: MeshLayout,
    probe: Prepared,
    reader: Reader,
    *,
    num_sequences: int = 256,
    seed: int = 0,
    alive: Callable[[], None] = lambda: None,
) -> Findings:
    """Measures a model.

    Args:
      experiment: the run's options.
      params: its parameters, on the mesh.
      layout: the sharding of activations.
      probe: a probe that was prepared for `reader`.
      reader: see `reader_of`.
      num_sequences: the number of generators to draw sequences from.
      seed: the seed of the sequences.
      alive: called for every batch.
    """
    made = probe.sequences(generators(seed, "probe", range(num_sequences)))
    ids = put_to(made, probe, reader)
    score, placement = compile_token_scores(experiment.model, layout), layout.placement(("batch", None))
    count, length = ids.tokens.shape
    ways = layout.ways("batch")
    size = ways * min(default_batch_size(length), -(-count // ways))
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (size, length))
    with_segments = experiment.model.reads_lengths
    results: list[tuple[jax.Array, jax.Array]] = []
    for first in range(0, count, size):
        rows = np.minimum(np.arange(first, first + size), count - 1)  # the last batch repeats a row
        batch = {"tokens": ids.tokens[rows], "targets": ids.targets[rows], "positions": positions}
        batch["segment_ids"] = np.ones((size, length), np.int32)
        mine = feed.local_rows(placement, size)
        on_mesh = feed.to_devices({name: x[mine] for name, x in batch.items()}, placement, size, with_segments)
        results.append(score(params, on_mesh))
        alive()
    nll, hits = (np.concatenate([np.asarray(x) for x in parts])[:count] for parts in zip(*results, strict=True))
    skipped = length - made.tokens.shape[1]  # the mark
    return probe.findings(made, nll[:, skipped:].astype(np.float64), hits[:, skipped:])


def put_to(made: Sequences, probe: Prepared, reader: Reader) -> Sequences:
    """The sequences in a model's ids, after the mark that begins a document if it has one."""
    tokens, targets = made.tokens, made.targets
    if probe.num_symbols is not None:
        ids = reader.ids(probe.num_symbols)
        tokens, targets = ids[tokens], ids[targets]
    if reader.begin is None:
        return Sequences(tokens, targets, made.weights)
    begins = np.full((len(tokens), 1), reader.begin, np.int32)
    return Sequences(
        np.concatenate([begins, tokens], axis=1),
        np.concatenate([tokens[:, :1], targets], axis=1),
        np.concatenate([np.zeros_like(made.weights[:, :1]), made.weights], axis=1),
    )
