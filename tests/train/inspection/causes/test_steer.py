"""Steering vectors from contrasting texts."""

import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from train.inspection.causes.steer import inspect
from train.inspection.causes.steering import FILE, load
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def test_the_vector_is_a_difference_of_means(run, tmp_path):
    result = inspect(run, positive=["a cat", "a dog"], negative=["the owl"], layer=-1, pool="last")
    result.write(tmp_path)
    assert [row[3] for row in result.parts[0].rows] == ["\u2013"] * 2
    assert "it takes two texts a side" in result.parts[0].caption
    found = load(tmp_path)
    assert (found.layer, found.num_layers) == (1, 2)

    def last(text):
        ids = np.array([[256, *text.encode()]], np.int32)
        return np.asarray(forward(run.experiment.model, run.params, ids, taps=("block_output",)).taps["block_output"])

    expected = (last("a cat") + last("a dog"))[1, 0, -1] / 2 - last("the owl")[1, 0, -1]
    np.testing.assert_allclose(found.vector_D, expected, atol=1e-5)
    assert FILE in {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": 2}, "--layer=2: the model has layers 0 to 1"),
        ({"pool": "max"}, "--pool='max': expected mean or last"),
        ({"negative": ["a cat"]}, "same activations, so their difference steers nowhere"),
        ({"negative": []}, "--negative has no text"),
    ],
)
def test_refused(run, arguments, words):
    with pytest.raises(UserError, match=words):
        inspect(run, **{"positive": ["a cat"], "negative": ["a dog"]} | arguments)


def test_a_text_that_is_cut_is_said(run):
    longer = "a" * (run.experiment.model.context_length + 1)
    notes = inspect(run, positive=["a cat"], negative=[longer]).notes
    assert len(notes) == 1
    assert notes[0].startswith("--negative='aaaa")
    assert "the model's context holds no more" in notes[0]
