import numpy as np
import pytest

from model.errors import UserError
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.interface import Reader, Sequences, by_column, generators, mean_over, measured
from train.evaluation.probes.letters import Letters
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.names import PROBES
from train.evaluation.probes.needle import Needle
from train.evaluation.probes.recall import Recall

TASKS = [MarkovChains(length=20), Induction(length=21), Recall(num_pairs=3, length=24), Needle(lengths=(20, 30))]
BYTES = Reader(257, 256, 256, 256, lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_a_sequence_is_a_function_of_seed_split_and_number(task):
    whole = task.sequences(generators(3, "train", range(8)))
    some = task.sequences(generators(3, "train", [5, 2]))
    for one, other in zip(whole, some, strict=True):
        np.testing.assert_array_equal(one[[5, 2]], other)
    for changed in (generators(4, "train", range(8)), generators(3, "validation", range(8))):
        assert not np.array_equal(whole.tokens, task.sequences(changed).tokens)
    assert len(np.unique(whole.tokens, axis=0)) == 8
    assert [x.dtype.name for x in whole] == ["int32", "int32", "float32"]
    assert whole.tokens.shape == whole.targets.shape == whole.weights.shape == (8, task.length)
    assert min(whole.tokens.min(), whole.targets.min()) >= 0
    assert max(whole.tokens.max(), whole.targets.max()) < task.num_symbols
    assert set(np.unique(whole.weights)) <= {0.0, 1.0}
    assert whole.weights.sum(1).min() >= 1


@pytest.mark.parametrize("task", [t for t in TASKS if not isinstance(t, Needle)], ids=lambda task: type(task).__name__)
def test_a_target_is_the_next_token(task):
    made = task.sequences(generators(0, "train", range(4)))
    np.testing.assert_array_equal(made.targets[:, :-1], made.tokens[:, 1:])


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("context", [64, 256, 2048])
def test_sizes_suit_a_model(name, context):
    reader = BYTES._replace(context_length=context)
    prepared = PROBES[name].for_model(reader).prepare(reader) if (name, context) != ("letters", 64) else None
    if prepared is not None:
        made = prepared.sequences(generators(0, "probe", range(2)))
        assert made.tokens.shape[1] <= context - 1
        assert prepared.num_symbols is None or prepared.num_symbols <= 256


def test_a_model_is_asked_the_task_that_it_was_trained_on():
    task = Recall(num_pairs=3, length=24)
    reader = Reader(task.num_symbols, 24, trained_on=task)
    assert Recall.for_model(reader) is task
    assert MarkovChains.for_model(reader) == MarkovChains(num_states=3, length=24)
    np.testing.assert_array_equal(reader.ids(5), range(5))


def test_symbols_of_a_text_model_are_ids_without_its_marks():
    ids = Reader(10, 8, begin=4, end=7).ids(8)
    assert sorted(ids) == [0, 1, 2, 3, 5, 6, 8, 9]
    assert list(ids) != sorted(ids)
    np.testing.assert_array_equal(ids, Reader(10, 8, begin=4, end=7).ids(8))


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (
            Induction(num_symbols_drawn=257, length=21),
            "Induction needs a vocabulary of 257, but that of the model is 256",
        ),
        (Induction(num_symbols_drawn=64, length=257), "Induction needs a context of 257, but that of the model is 255"),
        (Letters(num_examples=9), r"letters: a question with num_examples=9 has up to \d+ tokens, more than the 255"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused(probe, words):
    with pytest.raises(UserError, match=words):
        probe.prepare(BYTES)


def test_the_error_of_a_mean_is_that_of_a_ratio_estimator():
    draw = np.random.default_rng(0)
    values, weights = draw.normal(size=(6, 5)), (draw.random((6, 5)) < 0.6).astype(float)
    value, error = mean_over(values, weights)
    sums, counts = (values * weights).sum(1), weights.sum(1)
    assert value == pytest.approx(sums.sum() / counts.sum())
    residuals = [s - value * c for s, c in zip(sums, counts, strict=True)]
    assert error == pytest.approx((6 / 5 * sum(r * r for r in residuals)) ** 0.5 / counts.sum())
    assert np.isnan(mean_over(values[:1], weights[:1])[1])


def test_only_counted_targets_are_measured():
    made = Sequences(np.zeros((2, 3), int), np.zeros((2, 3), int), np.array([[1.0, 0, 1], [0, 0, 1]]))
    nll, hits = np.array([[1.0, 100, 2], [100, 100, 6]]), np.array([[True, True, False], [True, True, False]])
    assert measured(made, nll, hits)["loss"] == pytest.approx(3.0)
    assert measured(made, nll, hits)["accuracy"] == pytest.approx(1 / 3)
    assert by_column(nll, made.weights) == (1.0, None, 4.0)
