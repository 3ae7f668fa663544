"""Which hooks an experiment asks for."""

import types

import pytest

from train.hooks import of_experiment
from train.statistics import Statistics


@pytest.fixture
def names(monkeypatch, tiny_experiment):
    """A function that returns the names of the hooks of an experiment, in order; none of them is made."""
    for name in ("SamplesHook", "StatisticsHook", "SpikesHook"):
        monkeypatch.setattr(of_experiment, name, lambda *arguments, name=name: (name, *arguments))
    monkeypatch.setattr(of_experiment, "evaluation_hooks", lambda session: [("evaluations", session)])

    def made(**changes):
        session = types.SimpleNamespace(experiment=tiny_experiment(**changes))
        return list(of_experiment.hooks_of(session, "batches", []))

    return made


def test_each_option_has_its_hook(names):
    assert [hook[0] for hook in names()] == ["evaluations", "SamplesHook", "SpikesHook"]
    assert [hook[0] for hook in names(samples__prompts=(), spikes="None")] == ["evaluations"]
    made = names(statistics=Statistics(every=7))
    assert [hook[0] for hook in made] == ["evaluations", "SamplesHook", "StatisticsHook", "SpikesHook"]
    assert made[2][2] == 7
    assert made[3][3:] == ("batches", [])
