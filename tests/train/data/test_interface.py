import numpy as np

from train.data.batches.generated import GeneratedBatches, GeneratedEvaluation
from train.data.batches.pipeline import Batches, EvaluationBatches
from train.data.generated import Generated
from train.evaluation.probes.markov import MarkovChains


def test_text_is_read_from_its_dataset(dataset, data):
    batches = data.training_batches(dataset, ("tokens",))
    assert type(batches) is Batches
    np.testing.assert_array_equal(batches.rows(2)["tokens"], Batches(dataset, data).rows(2)["tokens"])
    assert type(data.evaluation_batches(dataset, "train", 1, range(2))) is EvaluationBatches


def test_a_task_makes_its_sequences(dataset):
    data = Generated(task=MarkovChains(length=12), batch_size=4)
    batches = data.training_batches(dataset, ("tokens",))
    assert type(batches) is GeneratedBatches
    assert list(batches.rows(0)) == ["tokens"]
    split = data.evaluation_batches(dataset, "validation", 1, [3])
    assert type(split) is GeneratedEvaluation
    (only,) = split
    assert only["tokens"].shape == (1, 12)
