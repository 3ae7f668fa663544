import numpy as np
import pytest

from model.errors import UserError
from train.data.batches.generated import GeneratedBatches, GeneratedEvaluation
from train.data.batches.rows import FIELDS
from train.data.generated import Generated
from train.evaluation.probes.interface import generators
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.needle import Needle

TASK = MarkovChains(length=12)
DATA = Generated(task=TASK, batch_size=4, validation_batches=3, seed=5)


def test_batch_n_is_a_function_of_the_option_and_n():
    batch = GeneratedBatches(DATA).rows(7)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: ((4, 12), np.dtype(kind)) for name, kind in FIELDS.items()
    }
    made = TASK.sequences(generators(5, "train", range(28, 32)))
    for name in ("tokens", "targets", "weights"):
        np.testing.assert_array_equal(batch[name], getattr(made, name))
    assert (batch["segment_ids"] == 1).all()
    assert batch["positions"].tolist() == [list(range(12))] * 4
    some = GeneratedBatches(DATA, fields=("targets", "tokens")).rows(7, [2, 0])
    assert list(some) == ["targets", "tokens"]
    np.testing.assert_array_equal(some["tokens"], batch["tokens"][[2, 0]])


def test_iteration_continues_anywhere():
    batches = GeneratedBatches(DATA)
    numbers = [3, 4, 5, 6]
    for n, batch in zip(numbers, batches.iterator(3, [1], 7), strict=True):
        np.testing.assert_array_equal(batch["tokens"], batches.rows(n, [1])["tokens"])


@pytest.mark.parametrize("task", [TASK, Needle(lengths=(11, 12))])
def test_targets_are_counted(task):
    batches = GeneratedBatches(Generated(task=task, batch_size=4))
    assert batches.num_targets(2) == int((batches.rows(2)["weights"] > 0).sum())


def test_a_split_is_other_sequences_once():
    split = GeneratedEvaluation(DATA)
    batches = list(split)
    assert len(batches) == len(split) == 3
    assert len(GeneratedEvaluation(DATA, limit=2)) == 2
    assert (split.coverage.tokens, split.coverage.bytes, split.coverage.end_tokens) == (3 * 4 * 12, 0, 0)
    trained = {row.tobytes() for n in range(3) for row in GeneratedBatches(DATA).rows(n)["tokens"]}
    held_out = {row.tobytes() for batch in batches for row in batch["tokens"]}
    assert len(trained | held_out) == len(trained) + len(held_out) == 24


def test_an_unknown_field_is_refused():
    with pytest.raises(UserError, match="no field of a batch is called 'token'"):
        GeneratedBatches(DATA, fields=("token",))
