import json

import pytest

from model.errors import UserError
from train.evaluation.probing.results import probe_run
from train.run.loading import load_run
from train.run.metrics import read_metrics


def test_a_run_is_asked_its_own_task(chains_run):
    folder, _ = chains_run
    said = []
    results = probe_run(load_run(folder), "markov", num_sequences=16, say=said.append)
    (entry,) = results.entries
    assert said == ["asking markov"]
    last = [line for line in read_metrics(folder) if line.get("name") == "chains"][-1]
    assert entry.findings.numbers["loss"] == pytest.approx(last["loss"], rel=1e-6)  # the same sequences as in training
    assert entry.findings.baselines["bigram"] == last["baseline_bigram"]
    found = json.loads(json.dumps(results.as_json(), allow_nan=False))
    assert (found["step"], found["num_sequences"]) == (6, 16)
    assert found["probes"][0]["probe"] == {"type": "MarkovChains", "num_states": 3, "length": 20, "concentration": 1.0}
    assert len(found["probes"][0]["pictures"][0]["lines"]["bigram"]) == 20


def test_of_one_sequence_there_is_no_error(chains_run):
    found = probe_run(load_run(chains_run[0]), "markov", num_sequences=1).as_json()
    assert found["probes"][0]["numbers"]["loss_standard_error"] is None


def test_a_probe_that_does_not_fit_is_refused_before_any_is_asked(chains_run):
    said = []
    with pytest.raises(UserError, match="letters: this model's tokens are not text"):
        probe_run(load_run(chains_run[0]), "markov,letters", say=said.append)
    assert said == []
