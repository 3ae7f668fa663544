"""A training of several autoencoders: it goes on to the bit, and refuses what does not belong to it."""

import dataclasses

import pytest
from safetensors.numpy import load_file

from model.errors import UserError
from tests.train.inspection.features.conftest import features_of
from train.inspection.features.training.loop import train_features
from train.process.stop import Stop
from train.run.metrics import read_metrics, read_status


def test_a_stopped_training_goes_on_to_the_bit(trained, tmp_path):
    folder, said = tmp_path / "parts", []
    outcome = train_features(trained.run, trained.features, folder, said.append, hard_stop=7)
    assert (outcome.state, outcome.step) == ("stopped", 7)
    assert not (folder / "checkpoints" / "12").exists()
    outcome = train_features(trained.run, trained.features, folder, said.append)
    assert outcome.state == "finished"
    assert f"resuming {folder} at step 7 of 12" in said
    whole, parts = (load_file(f / "checkpoints" / "12" / "state.safetensors") for f in (trained.folder, folder))
    assert whole.keys() == parts.keys()
    for name, x in whole.items():
        assert x.tobytes() == parts[name].tobytes(), name
    assert (folder / "metrics.jsonl").read_bytes().count(b"\n") > 3
    lines = [[line for line in read_metrics(f) if line["step"] in (3, 6, 9, 12)] for f in (trained.folder, folder)]
    assert lines[0] == lines[1]


def test_training_lowers_the_loss_and_the_folder_explains_itself(trained):
    lines = read_metrics(trained.folder)
    first, last = ([line for line in lines if line["kind"] == "train"][i] for i in (0, -1))
    assert last["top/reconstruction"] < 0.9 * first["top/reconstruction"]
    for name in ("top", "relu", "through"):
        assert (trained.folder / "autoencoders" / name / "cfg.json").is_file()
    assert {line["name"] for line in lines if line["kind"] == "eval"} == {"top", "relu", "through"}
    assert read_status(trained.folder)["state"] == "finished"
    names = {path.name for path in trained.folder.iterdir()}
    assert {"features.json", "source.json", "status.json", "checkpoints", "index.html", "densities.npz"} <= names
    assert any("a buffer of 256 tokens" in line for line in trained.said)
    assert last["top/l0"] <= 4
    assert 0 < last["through/l0"] <= 4.5  # padding has no features, so tokens may have more


def test_other_options_are_refused_by_field(trained):
    autoencoders = list(trained.features.autoencoders)
    changed = dataclasses.replace(autoencoders[0], width=56)
    others = features_of(autoencoders=(changed, *autoencoders[1:]))
    with pytest.raises(UserError, match=r"autoencoders\.top\.width: 48 -> 56"):
        train_features(trained.run, others, trained.folder)


def test_a_request_to_stop_saves(trained, tmp_path):
    stop = Stop()
    stop.requested = "SIGTERM"
    outcome = train_features(trained.run, trained.features, tmp_path / "f", lambda line: None, stop)
    assert (outcome.state, outcome.step) == ("interrupted", 0)
    assert read_status(tmp_path / "f")["state"] == "interrupted"
