"""The quickstart measures as launch.evaluate does."""

import json
import shutil

import pytest

from train.evaluation.evaluate import evaluate
from train.run.loading import load_run


def test_its_numbers_are_those_of_the_one_function(command, tiny_experiment, tiny_run, write_config, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = write_config(tiny_experiment(), tmp_path / "config.py")
    arguments = (f"--config={config}", f"--run={run}", "--num_files=1", "--file_tokens=4")
    status, said = command("launch.quickstart", *arguments)
    assert status == 0, said
    found = json.loads((run / "evaluation.json").read_text())["validation"]
    expected = evaluate(load_run(run)).as_json()
    assert found == pytest.approx({name: expected[name] for name in found})
    assert set(found) >= {"loss", "perplexity", "word_loss", "word_perplexity", "bits_per_byte", "tokens", "bytes"}
    assert "measuring the validation files" in said
    assert "measuring" not in command("launch.quickstart", *arguments)[1]  # the evaluation of this checkpoint exists
