"""The validation of preference objectives: means over all rows, whatever the size of batches and the padding."""

import dataclasses

import jax
import numpy as np
import pytest

from train import experiment as experiments
from train.alignment.reference import noted_logps
from train.alignment.rows_validation import RowsValidation
from train.data.shards.dataset import dataset_of_run
from train.hooks.interface import Session
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import layout_of
from train.run.metrics import read_metrics
from train.state import StateConfig, init_sharded, state_shardings


@pytest.mark.sweep
def test_means_do_not_depend_on_batches(dpo_run):
    experiment, mesh = experiments.load(dpo_run), make_mesh(Mesh(), jax.devices()[:1])
    layout = layout_of(mesh, experiment.sharding)
    config = StateConfig.of(experiment)
    state = init_sharded(config, 7, state_shardings(config, mesh, experiment.sharding))  # another than the reference
    found = []
    for size in (8, 4):
        data = dataclasses.replace(experiment.data, batch_size=size)
        session = Session(
            experiment=dataclasses.replace(experiment, data=data),
            folder=dpo_run,
            dataset=dataset_of_run(dpo_run),
            mesh=mesh,
            layout=layout,
            metrics=None,
            say=print,
        )
        logps = noted_logps(session, "validation")
        assert len(logps) % size, "the last batch has padding"
        found.append(RowsValidation(session, logps, ("chosen_", "rejected_"))(state))
    assert found[0].keys() == {"loss", "chosen_logp", "rejected_logp", "margin", "accuracy", "reference_kl"}
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-5), name
    assert found[0]["reference_kl"] != 0


def test_the_lines_of_a_run(dpo_run):
    lines = [line for line in read_metrics(dpo_run) if line["kind"] == "eval"]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[1]["loss"] < lines[0]["loss"] < np.log(2)
    assert 0 <= lines[0]["accuracy"] <= lines[1]["accuracy"] <= 1
