"""Another run as the start of a new one: its parameters in its places and its format, each held once; or its state."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import find_problems
from model.parameters.precision import Precision
from train.experiment import Branch
from train.loop import train
from train.parallel.mesh import Mesh, make_mesh
from train.run import pretrained
from train.run.loading import load_params
from train.run.metrics import read_metrics
from train.run.pretrained import check_start, initial_params, initial_state
from train.state import StateConfig, init_sharded, state_shardings


@pytest.fixture
def experiment(tiny_experiment, tiny_run):
    """One that continues from the tiny run, whose parameters eight devices hold whole, split over them."""
    return tiny_experiment(training__init_from=str(tiny_run), mesh=Mesh(fsdp=8))


@pytest.mark.parametrize("stored_as", ["float32", "bfloat16"])
def test_they_are_read_into_the_places_of_the_new_run(experiment, tiny_run, tmp_path, monkeypatch, stored_as):
    model = dataclasses.replace(experiment.model, precision=Precision(parameters=stored_as))
    experiment = dataclasses.replace(experiment, model=model)
    read = []
    monkeypatch.setattr(pretrained, "load_params", lambda *a, **k: read.append(load_params(*a, **k)) or read[-1])
    params = initial_params(experiment, tmp_path)
    for found in (read[0].params, params):
        for x in jax.tree.leaves(found):
            if x.ndim > 1:
                assert x.addressable_shards[0].data.nbytes == x.nbytes // 8
    whole = load_params(tiny_run).params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        assert a.dtype == stored_as
        np.testing.assert_array_equal(a, np.asarray(b.astype(stored_as)))


def test_the_first_state_takes_the_arrays_over(experiment, tmp_path):
    params = initial_params(experiment, tmp_path)
    expected = jax.tree.map(np.asarray, jax.tree.map(lambda x: x + 0, params))
    state_config = StateConfig.of(experiment)
    shardings = state_shardings(state_config, make_mesh(experiment.mesh), experiment.sharding)
    state = init_sharded(state_config, 0, shardings, params)
    jax.tree.map(np.testing.assert_array_equal, state.all_params, expected)
    assert all(x.is_deleted() for x in jax.tree.leaves(params))


def test_none_is_named(tiny_experiment, tmp_path):
    assert initial_params(tiny_experiment(), tmp_path) is None


@pytest.fixture
def branch(tiny_experiment, tiny_run):
    """A function that makes the experiment of the tiny run, from step 10 of that run on."""

    def make(step=10, **changes):
        experiment = tiny_experiment(**changes)
        training = dataclasses.replace(experiment.training, branch_from=Branch(run=str(tiny_run), step=step))
        return dataclasses.replace(experiment, training=training)

    return make


def test_a_branch_with_the_same_options_is_the_trunk(branch, tiny_run, tmp_path):
    """Losses, moments, step numbers and the order of batches: the same lines as the trunk wrote."""
    outcome = train(branch(samples__prompts=()), tmp_path / "branch", say=lambda line: None)
    assert (outcome.state, outcome.step) == ("finished", 20)
    of_trunk = [line for line in read_metrics(tiny_run) if line["step"] > 10]
    assert read_metrics(tmp_path / "branch") == of_trunk
    whole, own = (load_params(run).params for run in (tiny_run, tmp_path / "branch"))
    jax.tree.map(np.testing.assert_array_equal, own, whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__num_layers": 1}, "model.num_layers: 2 -> 1|num_layers: 2 -> 1"),
        ({"optimizer": "Lion()"}, "optimizer: AdamW -> Lion"),
        ({"training__guard": "Guard(outliers=Outliers())"}, "an option of the optimizer, the guard"),
    ],
)
def test_a_branch_of_other_states_is_refused(branch, changes, words):
    with pytest.raises(UserError, match="training.branch_from.run=.* has other states") as caught:
        check_start(branch(**changes))
    assert re.search(words, str(caught.value))


def test_a_step_that_the_trunk_did_not_keep(branch, tmp_path):
    experiment = branch(step=7)
    shardings = state_shardings(StateConfig.of(experiment), make_mesh(experiment.mesh), experiment.sharding)
    with pytest.raises(UserError, match="has no checkpoint 7; its checkpoints are 10, 20. checkpoints.keep_every"):
        initial_state(experiment, tmp_path, shardings)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"step": 0}, "training.branch_from.step: must be at least 1, got 0"),
        ({"step": 20}, "training.num_steps: 20 steps end before branch_from.step=20 is left"),
        ({"step": 10, "init_from": "x"}, "training.branch_from: takes the parameters of r and init_from others"),
    ],
)
def test_branches_that_cannot_be(fields, problem, tiny_experiment):
    experiment, init_from = tiny_experiment(), fields.pop("init_from", None)
    training = dataclasses.replace(experiment.training, branch_from=Branch(run="r", **fields), init_from=init_from)
    assert any(problem in line for line in find_problems(dataclasses.replace(experiment, training=training)))
