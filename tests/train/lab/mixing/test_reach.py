"""How far back a model looks: the gradients of each window by itself, what is kept, what is refused."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.directions import Bidirectional
from model.errors import UserError
from model.transformer import forward
from tests.train.lab.sweeps import STEPS, write_sweep
from train.lab.mixing.reach import gradient_norms, measure_reach, reach_of
from train.lab.results import read_results
from train.run.loading import load_run


@pytest.fixture(scope="module")
def loaded(tiny_run):
    return load_run(tiny_run)


def test_the_norms_are_those_of_the_table_of_embeddings(loaded):
    """Each token of a window gets an id of its own, so that the gradient of the table is by token."""
    found = gradient_norms(loaded, windows=3)
    config, length = loaded.experiment.model, loaded.experiment.data.sequence_length
    assert list(found) == [0, *(2**i for i in range(int(math.log2(length - 1)) + 1))]
    (split,) = loaded.dataset().split("validation")
    text = np.concatenate([split.tokens(i) for i in range(split.num_documents)])
    norms, table = [], loaded.params["embedding"]["table"]

    @jax.jit
    @jax.grad
    def slope(rows_TD, target):
        own = dataclasses.replace(config, vocab_size=config.vocab_size + length)
        params = {
            **loaded.params,
            "embedding": {**loaded.params["embedding"], "table": jnp.concatenate([table, rows_TD])},
        }
        ids = config.vocab_size + np.arange(length, dtype=np.int32)[None]
        logits_V = forward(own, params, ids).logits_BTV[0, -1, : config.vocab_size]
        return -jax.nn.log_softmax(logits_V)[target]

    for start in np.linspace(0, len(text) - length - 1, 3).astype(int):
        window = text[start : start + length + 1]
        norms.append(jnp.linalg.norm(slope(table[window[:-1]], window[-1]), axis=-1))
    expected = np.mean(norms, axis=0)
    for distance, norm in found.items():
        assert norm == pytest.approx(expected[length - 1 - distance], rel=2e-3), distance


def test_what_does_not_predict_a_text_is_refused(loaded):
    model = dataclasses.replace(loaded.experiment.model, visibility=Bidirectional())
    with pytest.raises(UserError, match="predict the next token of a text"):
        gradient_norms(dataclasses.replace(loaded, experiment=dataclasses.replace(loaded.experiment, model=model)))
    data = dataclasses.replace(loaded.experiment.data, sequence_length=10**6)
    with pytest.raises(UserError, match=r"tokens, and a window takes 1,000,001"):
        gradient_norms(dataclasses.replace(loaded, experiment=dataclasses.replace(loaded.experiment, data=data)))


def test_runs_are_measured_once_and_averaged(tmp_path, tiny_experiment, monkeypatch):
    write_sweep(
        tmp_path, tiny_experiment(training__num_steps=STEPS), {"base": [], "wide": ["model.ffn.width=96"]}, seeds=(0, 1)
    )
    said, norms = [], iter([{0: 1.0, 1: 0.5}, {0: 3.0, 1: 0.7}, {0: 2.0, 1: 0.1}, {0: 2.0, 1: 0.3}])
    monkeypatch.setattr("train.run.loading.load_run", lambda folder, step: (folder, step))
    monkeypatch.setattr("train.lab.mixing.reach.gradient_norms", lambda run: next(norms))
    for _ in range(2):
        measure_reach(read_results(tmp_path), said.append)
    assert len(said) == 4
    found = reach_of(read_results(tmp_path))
    assert found["base"] == {0: (2.0, 1.0, 3.0), 1: (pytest.approx(0.6), 0.5, 0.7)}
    (tmp_path / "reach" / "base-seed1.json").write_text(json.dumps({"step": 3, "windows": 64, "norms": {"0": 9.0}}))
    (tmp_path / "reach" / "wide-seed0.json").write_text("{")
    found = reach_of(read_results(tmp_path))
    assert (found["base"][0], found["wide"][0]) == ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
