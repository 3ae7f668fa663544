"""Pages of features: of the folder that a training writes; another model, layer or number is refused."""

import json

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.features.pages import features as instrument


@pytest.fixture(scope="module")
def result(trained):
    return instrument.inspect(trained.run, autoencoder=str(trained.folder / "autoencoders" / "top"), batches=2)


def test_every_feature_has_its_texts_and_logits(result, trained, tmp_path):
    units = result.parts[0].data["units"]
    assert 1 <= len(units) <= 48
    assert result.arrays["logits"].shape == (len(units), 257)
    for unit, density in zip(units, result.numbers["density"]):
        assert unit["density"] == density > 0
        assert len(unit["promoted"]) == 10
        activations = [example["activations"][example["peak"]] for example in unit["examples"]]
        assert activations == sorted(activations, reverse=True)
        assert unit["largest"] == pytest.approx(activations[0], abs=1e-4)
    assert "fire at no token here" in result.notes[0]
    page = result.write(tmp_path).read_text()
    assert "inspection.widgets.units" in page
    assert json.loads((tmp_path / "result.json").read_text())["units"] == result.numbers["units"]


def test_a_sample_is_said(trained, monkeypatch):
    monkeypatch.setattr(instrument, "MOST_UNITS", 3)
    found, notes = instrument._chosen(None, 10, np.array([1, 0, 5, 3, 2, 9, 0, 0, 1, 1]), 0)
    assert len(found) == 3
    assert notes == ["A sample: 3 of the 7 features that fire here, drawn at random; 3 do not fire."]
    with pytest.raises(UserError, match="4 features are more than a page shows; give at most 3"):
        instrument.check_units([0, 1, 2, 3], 10, "feature")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tap": "block_output", "layer": 0}, "reads block_output of layer 1, and block_output of layer 0"),
        ({"layer": 0}, "reads block_output of layer 1, and block_output of layer 0"),
        ({"units": [48]}, "--units: there is no feature 48; they are 0 to 47"),
        ({"autoencoder": "nowhere"}, "nowhere is no folder of an autoencoder"),
    ],
)
def test_what_does_not_fit_is_refused(trained, changes, words):
    given = {"autoencoder": str(trained.folder / "autoencoders" / "top"), "batches": 1}
    with pytest.raises(UserError, match=words):
        instrument.inspect(trained.run, **(given | changes))
