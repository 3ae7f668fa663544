"""A reference: its log-probabilities are exact, computed once, kept by content, and of the right tokenizer."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward, init
from train import experiment as experiments
from train.alignment import reference as module
from train.data.config import Bytes
from train.data.preferences.stored import StoredPreferences
from train.loop import train
from train.objectives.preference import DPO
from train.run.metrics import read_metrics
from train.state import keys_of


def silent(line):
    pass


def of_kind(run, kind):
    return [line for line in read_metrics(run) if line["kind"] == kind]


def test_the_first_loss_is_ln_2_and_the_margin_is_0(dpo_run):
    """Bit for bit: the reference and the policy at step 0 are one function of the same numbers."""
    lines = of_kind(dpo_run, "train")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert lines[0]["margin"] == lines[0]["reference_kl"] == 0
    assert lines[-1]["margin"] > 0.1
    assert lines[-1]["accuracy"] == 1.0
    assert lines[-1]["loss"] < 0.66


def test_the_numbers_are_the_log_probabilities_of_the_initial_model(dpo_run):
    experiment = experiments.load(dpo_run)
    params = jax.jit(init, static_argnums=0)(experiment.model, keys_of(experiment.training.seed)[0])
    logits_of = jax.jit(lambda params, ids: forward(experiment.model, params, ids).logits_BTV)
    noted = json.loads((dpo_run / "reference.json").read_text())
    assert noted["source"] == {"run": None, "seed": 0}
    for split in ("train", "validation"):
        stored = StoredPreferences(dpo_run / "data", split, 2)
        found = np.load(dpo_run / "data" / "reference" / f"{noted['keys'][split]}.npy")
        assert found.shape == (stored.num_rows, 2)
        ids = np.zeros((2 * stored.num_rows, 8), np.int32)
        counted = np.zeros((2 * stored.num_rows, 8), bool)
        for entry in range(len(ids)):
            tokens, counts = stored.sequence(entry)
            ids[entry, : len(tokens)], counted[entry, : len(counts)] = tokens, counts
        logits = np.asarray(logits_of(params, ids), np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        of_next = np.take_along_axis(logp[:, :-1], ids[:, 1:, None], -1)[..., 0]
        np.testing.assert_allclose(found.reshape(-1), (of_next * counted[:, 1:]).sum(1), rtol=1e-5)


def test_a_run_that_continues_ends_the_same_without_computing_them_again(
    dpo_run, preference_experiment, tmp_path, monkeypatch
):
    train(preference_experiment(), tmp_path / "run", hard_stop=2, say=silent)
    monkeypatch.setattr(module, "_computed", None)  # would fail
    monkeypatch.setattr(module, "_reference", None)
    train(preference_experiment(), tmp_path / "run", say=silent)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (dpo_run / "metrics.jsonl").read_bytes()


@pytest.mark.sweep
def test_runs_on_the_same_tokens_share_the_numbers_of_equal_parameters(
    dpo_run, preference_experiment, tmp_path, monkeypatch
):
    """Another beta and more steps use them; other initial parameters do not."""
    computed = []
    monkeypatch.setattr(module, "_computed", lambda *arguments: computed.append(arguments) or np.zeros((19, 2)))
    other = preference_experiment(objective=DPO(beta=0.3), training__num_steps=5)
    (run := tmp_path / "run").mkdir()
    shutil.copytree(dpo_run / "data", run / "data")
    known = {path.name for path in (run / "data" / "reference").iterdir()}
    train(other, run, hard_stop=1, say=silent)
    assert not computed
    assert of_kind(run, "train")[0]["loss"] == of_kind(dpo_run, "train")[0]["loss"]
    assert {path.name for path in (run / "data" / "reference").iterdir()} == known
    shutil.copytree(dpo_run / "data", (again := tmp_path / "again") / "data")
    monkeypatch.setattr(module, "_read", lambda path, rows: np.zeros((rows.stored.num_rows, 2), np.float32))
    train(preference_experiment(training__seed=1), again, hard_stop=1, say=silent)
    assert len(computed) == 2  # of both splits
    assert len(list((again / "data" / "reference").iterdir())) == 4


@pytest.mark.sweep
def test_another_run_as_the_reference(dpo_run, preference_experiment, tmp_path):
    """The policy starts from the trained run, and the reference is it too, by name: again ln 2."""
    run = str(dpo_run)
    experiment = preference_experiment(objective=DPO(reference=run), training__init_from=run, training__num_steps=1)
    train(experiment, tmp_path / "run", say=silent)
    (line,) = of_kind(tmp_path / "run", "train")
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert line["chosen_logp"] > of_kind(dpo_run, "train")[0]["chosen_logp"]
    assert json.loads((tmp_path / "run" / "reference.json").read_text())["source"]["run"] == run


def test_a_reference_of_another_tokenizer_is_refused(dpo_run, preference_experiment, tmp_path):
    data = dataclasses.replace(preference_experiment().data, tokenizer=Bytes(end_of_document=False))
    experiment = preference_experiment(data=data, model__vocab_size=256, objective=DPO(reference=str(dpo_run)))
    with pytest.raises(UserError, match=r"(?s)objective.reference=.*has another tokenizer \(257 tokens, Bytes\).*256"):
        train(experiment, tmp_path / "run", say=silent)


def test_damaged_numbers_are_named(dpo_run, preference_experiment, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(dpo_run / "data", run / "data")
    for path in (run / "data" / "reference").iterdir():
        np.save(path, np.full((3, 2), np.nan))
    with pytest.raises(UserError, match="expected .* rows of two finite log-probabilities, got .*delete it"):
        train(preference_experiment(), run, say=silent)
