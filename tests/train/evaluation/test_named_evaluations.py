import pytest

from model.errors import UserError
from train.evaluation.named_evaluations import NamedEvaluation


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([{"name": ""}], r"evaluations.0.name: expected letters, digits, _, - and \., 64 at most, got ''"),
        ([{"name": "../x"}], r"evaluations.0.name: expected letters.*got '../x'"),
        ([{"name": "validation"}], "evaluations.0.name: 'validation' is the split that `evaluation` measures"),
        ([{"name": "a"}, {"name": "b"}, {"name": "A"}], "evaluations.2.name: 'A' is the name of evaluations.0 too"),
        ([{"name": "a", "every": 0}], "evaluations.0.every: must be at least 1, got 0"),
        ([{"name": "a", "max_batches": 0}], "evaluations.0.max_batches: must be at least 1, got 0"),
        ([{"name": "a", "sequence_length": 0}], "evaluations.0.sequence_length: must be at least 1, got 0"),
        ([{"name": "a", "sequence_length": 10**6}], "evaluations.0.sequence_length: 1000000 is longer than model.cont"),
        ([{"name": "a", "path": None}], "evaluations.0.path: is missing: without a text or a sequence_length"),
    ],
)
def test_names_and_numbers_without_sense_are_refused(fields, words, tiny_experiment):
    with pytest.raises(UserError, match=words):
        tiny_experiment(evaluations=tuple(NamedEvaluation(**({"path": "x"} | some)) for some in fields))


def test_one_can_be_given_on_the_command_line(tiny_experiment):
    experiment = tiny_experiment(evaluations="(NamedEvaluation(name='code', path='code/**/*.py', every=7),)")
    assert experiment.evaluations == (NamedEvaluation(name="code", path="code/**/*.py", every=7),)


def test_windows_of_a_task_are_refused(tiny_experiment):
    data, window = "Generated(task=MarkovChains(length=16))", NamedEvaluation(name="a", sequence_length=8)
    with pytest.raises(UserError, match=r"evaluations.0.sequence_length: needs windows of a text"):
        tiny_experiment(data=data, evaluations=(window,))
