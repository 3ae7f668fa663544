"""Batches that a preparation completes: a toy one, which weighs tokens by what it has seen and by the parameters."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from tests.train.test_loop import parameters
from train.hooks import preparing
from train.hooks.preparing import Preparing
from train.joint.groups import reason_alone
from train.loop import train
from train.objectives.interface import Preparation, refuse_preparation
from train.objectives.next_token import NextToken
from train.parallel.mesh import Mesh
from train.run.metrics import read_metrics
from train.run.time_spent import read_time_spent


def silent(line):
    pass


class Toy(Preparation):
    """Counts every second token twice if the batches so far had an even number of tokens; carries that number."""

    closed = 0

    def __init__(self, session):
        self.session, self.seen, self.calls = session, np.zeros(1, np.int32), []

    def __call__(self, state, batch, n):
        self.calls.append(n)
        with self.session.spent_on("reference"):
            self.size = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(state.all_params["embedding"]))
        factor = 1 + (jnp.arange(batch["weights"].shape[1]) + int(self.seen[0])) % 2
        self.seen += np.int32(jnp.sum(batch["tokens"]) + n) % 1000
        return {**batch, "weights": batch["weights"] * factor}

    def scalars(self):
        return {"seen": float(self.seen[0]), "size": self.size}

    def saved(self):
        return {"seen": self.seen.copy()}

    def restore(self, arrays):
        self.seen = arrays["seen"].copy()

    def close(self):
        Toy.closed += 1


@pytest.fixture
def toy(monkeypatch):
    made = []

    def make(objective, session):
        made.append(Toy(session))
        return made[-1]

    monkeypatch.setattr(NextToken, "preparation", make, raising=False)
    return made


def test_batches_are_completed_and_a_resumed_run_ends_the_same(toy, tiny_experiment, tmp_path):
    """The session ends at a step without a line, so that the tokens so far are not those of a line."""
    experiment = tiny_experiment(
        training__num_steps=6, checkpoints__every=3, evaluation__every=6, samples__prompts=(), logging__every=2
    )
    train(experiment, tmp_path / "whole", say=silent)
    train(experiment, tmp_path / "halved", hard_stop=3, say=silent)
    train(experiment, tmp_path / "halved", say=silent)
    assert [made.calls for made in toy] == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [3, 4, 5]]
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert (whole / "metrics.jsonl").read_bytes() == (halved / "metrics.jsonl").read_bytes()
    assert parameters(whole) == parameters(halved)
    lines = [line for line in read_metrics(tmp_path / "whole") if line["kind"] == "train"]
    assert [line["seen"] for line in lines][-1] == toy[0].seen[0] > 0
    assert len({line["size"] for line in lines}) == 3  # of the state before the step
    (spent,) = read_time_spent(tmp_path / "whole")
    assert spent["preparation"] > 0
    assert spent["reference"] > 0
    assert Toy.closed == 3


def session_of(experiment, **more):
    return types.SimpleNamespace(experiment=experiment, **more)


def test_without_a_preparation_a_batch_stays_the_same_object(tiny_experiment):
    nothing, batch, scalars = Preparing(session_of(tiny_experiment()), None), {"tokens": 1}, {"loss": 2}
    assert nothing(None, batch, 0) is batch
    assert nothing.with_scalars(scalars) is scalars
    assert nothing.saved(5) == {}
    assert nothing.restore({}) is None


def test_a_number_with_the_name_of_a_metric_is_refused(toy, tiny_experiment):
    preparing_toy = Preparing(session_of(tiny_experiment()), None)
    toy[0].size = 1.0
    with pytest.raises(UserError, match="Toy reports 'seen', which is a metric of the step"):
        preparing_toy.with_scalars({"loss": 1.0, "seen": 2.0})


def test_stages_and_processes_are_refused_by_name(toy, tiny_experiment, monkeypatch):
    experiment = tiny_experiment(mesh=Mesh(stage=2), training__gradient_accumulation=2, samples__prompts=())
    with pytest.raises(UserError, match="NextToken prepares its batches with a whole model; set mesh.stage to 1"):
        Preparing(session_of(experiment), None)
    monkeypatch.setattr(preparing.hosts, "joined", lambda: True)
    with pytest.raises(UserError, match="NextToken prepares its batches in one process"):
        Preparing(session_of(tiny_experiment()), None)


def test_commands_without_the_state_of_a_run_refuse_it(toy, tiny_experiment):
    experiment = tiny_experiment()
    with pytest.raises(UserError, match="the speed of a step: the objective NextToken completes its batches"):
        refuse_preparation(experiment.objective, "the speed of a step")
    assert "completes its batches with the state of one run" in reason_alone(experiment)
