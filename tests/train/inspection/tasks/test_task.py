"""The task of a run, and the refusal of runs of another and of text."""

import pathlib
from types import SimpleNamespace

import pytest

from model.errors import UserError
from train.data.generated import Generated
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.modular import ModularAddition
from train.inspection.tasks.task import task_of


def run_on(data):
    return SimpleNamespace(folder=pathlib.Path("runs/a"), experiment=SimpleNamespace(data=data))


def test_the_task_of_a_run():
    task = MarkovChains(num_states=4)
    assert task_of(run_on(Generated(task=task, batch_size=2)), MarkovChains, "configs/markov_chains.py") == task


@pytest.mark.parametrize(
    ("data", "made"),
    [(Generated(task=ModularAddition(modulus=5), batch_size=2), "ModularAddition"), (None, "text")],
    ids=["another", "text"],
)
def test_another_task_and_text_are_refused(data, made):
    with pytest.raises(UserError, match=f"^runs/a was trained on {made}; expected a run of configs/markov_chains.py$"):
        task_of(run_on(data), MarkovChains, "configs/markov_chains.py")
