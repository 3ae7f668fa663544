"""A run folder around given parameters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.transformer import abstract_params
from tests.train.conversion.folders import trained_here
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.conversion.run_folder import write_description, write_parameters
from train.run.loading import load_params


def test_a_run_folder_holds_the_parameters_under_their_step(tmp_path, monkeypatch):
    trained_here(tmp_path / "other", "llama")
    experiment = experiments.load(tmp_path / "other")
    params = jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), abstract_params(experiment.model))
    (tmp_path / "run").mkdir()
    write_description(experiment, tmp_path / "run")
    write_parameters(experiment, params, tmp_path / "run", step=7)
    loaded = load_params(tmp_path / "run")
    assert (loaded.step, loaded.experiment) == (7, experiment)
    assert all(np.all(np.asarray(x) == 0.5) for x in jax.tree.leaves(loaded.params))
    assert len(json.loads((tmp_path / "run" / "parameters.json").read_text())) == len(jax.tree.leaves(params))
    monkeypatch.setattr(CheckpointStore, "save", lambda *_: None)
    with pytest.raises(UserError, match="the checkpoint could not be written"):
        write_parameters(experiment, params, tmp_path / "run", step=8)
