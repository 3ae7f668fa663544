"""The parameters of another run as the first ones of a new run: in its places, in its format, each held once."""

import dataclasses

import jax
import numpy as np
import pytest

from model.parameters.precision import Precision
from train.parallel.mesh import Mesh
from train.run import pretrained
from train.run.loading import load_params
from train.run.pretrained import initial_params
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
    params = initial_params(experiment)
    for found in (read[0].params, params):
        for x in jax.tree.leaves(found):
            if x.ndim > 1:
                assert x.addressable_shards[0].data.nbytes == x.nbytes // 8
    whole = load_params(tiny_run).params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        assert a.dtype == stored_as
        np.testing.assert_array_equal(a, np.asarray(b.astype(stored_as)))


def test_the_first_state_takes_the_arrays_over(experiment, tmp_path):
    params = initial_params(experiment)
    expected = jax.tree.map(np.asarray, jax.tree.map(lambda x: x + 0, params))
    state_config = StateConfig.of(experiment)
    from train.parallel.mesh import make_mesh

    shardings = state_shardings(state_config, make_mesh(experiment.mesh), experiment.sharding)
    state = init_sharded(state_config, 0, shardings, params)
    jax.tree.map(np.testing.assert_array_equal, state.all_params, expected)
    assert all(x.is_deleted() for x in jax.tree.leaves(params))


def test_none_is_named(tiny_experiment, tmp_path):
    assert initial_params(tiny_experiment()) is None
