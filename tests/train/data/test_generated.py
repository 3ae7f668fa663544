import pytest

from model.errors import UserError
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check
from train.data.generated import Generated
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.recall import Recall
from train.experiment import Experiment

DATA = Generated(task=MarkovChains(length=20), batch_size=8)


def test_an_experiment_on_a_task_goes_through_json(tiny_experiment):
    experiment = tiny_experiment(data=DATA, model__vocab_size=3)
    assert from_json(Experiment, to_json(experiment)) == experiment
    assert experiment.data.sequence_length == 20
    with pytest.raises(UserError, match="data: MarkovChains makes the sequences; there is no text to name"):
        _ = experiment.text


def test_a_task_may_be_given_and_changed_on_the_command_line(tiny_experiment):
    data = "Generated(task=Recall(num_pairs=2, num_keys=4, num_values=5, length=16), batch_size=4)"
    experiment = tiny_experiment()
    for assignment in ("model.vocab_size=9", f"data={data}", "data.task.num_pairs=3"):
        experiment = override(experiment, assignment)
    check(experiment)
    assert experiment.data.task == Recall(num_pairs=3, num_keys=4, num_values=5, length=16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": DATA}, "model.vocab_size: 257, but data.task has 3 symbols; set it to 3"),
        ({"data": DATA, "model__vocab_size": 3, "data__batch_size": 0}, "data.batch_size: expected at least 1, got 0"),
        ({"data": DATA, "model__vocab_size": 3, "data__validation_batches": 0}, "data.validation_batches: expected"),
        ({"data": DATA, "model__vocab_size": 3, "data__seed": -1}, "data.seed: expected at least 0"),
        ({"data": DATA, "model__vocab_size": 3, "data__prefetch": 2000}, "data.prefetch: expected at most 1,000"),
        ({"data": DATA, "model__vocab_size": 3, "data__batch_size": 2**30}, "data.batch_size: one batch has more than"),
        (
            {"data": DATA, "model__vocab_size": 3, "data__task__num_states": 1},
            "data.task.num_states: must be at least 2",
        ),
        ({"data": DATA, "model__vocab_size": 3, "data__task__length": 33}, "data.sequence_length: 33 is longer than"),
    ],
)
def test_refused(changes, words, tiny_experiment):
    with pytest.raises(UserError, match=words):
        tiny_experiment(**changes)
