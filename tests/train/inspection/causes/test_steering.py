"""Steering vectors: the file, the edit in generation, vectors that do not fit."""

import numpy as np
import pytest

from model.errors import UserError
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.taps.request import Tap, Taps
from model.transformer import forward
from tests.train.inspection.models import FAMILIES, subject
from train.inspection.causes.steering import FILE, SteeringVector, edits_of, load

CONFIG = FAMILIES["llama"]


@pytest.fixture
def folder(tmp_path):
    SteeringVector(np.linspace(-1, 1, 16, dtype=np.float32), 0, 2).save(tmp_path / FILE)
    return tmp_path


def test_a_file_comes_back(folder):
    found = load(folder)
    assert (found.layer, found.num_layers) == (0, 2)
    np.testing.assert_array_equal(found.vector_D, np.linspace(-1, 1, 16, dtype=np.float32))


def test_generation_is_that_of_an_edited_forward_pass(folder):
    model = subject(CONFIG)
    edits = edits_of([f"{folder}:3"], CONFIG)
    sampling = Sampling(max_tokens=4, temperature=0.0)
    ((*steered,),) = generate(CONFIG, model.params, [[1, 2, 3]], sampling, edits=edits)
    text = [1, 2, 3]
    added = 3 * np.linspace(-1, 1, 16, dtype=np.float32)
    taps = Taps(edit={Tap("block_output", layers=(0,)): lambda x, site: x + added})
    for token in steered:
        logits = forward(CONFIG, model.params, np.array([text + [0] * (7 - len(text))]), taps=taps).logits_BTV
        assert int(logits[0, len(text) - 1].argmax()) == token
        text.append(token)
    assert steered != generate(CONFIG, model.params, [[1, 2, 3]], sampling)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "expected FILE:SCALE"),
        ("{}:x", "expected FILE:SCALE"),
        ("{}/none:1", "no file"),
        ("{}:0", "a vector of zeros changes nothing"),
        ("{}/damaged:1", "is damaged"),
    ],
)
def test_refused(folder, text, words):
    (folder / "damaged").write_bytes(b"x" * 40)
    with pytest.raises(UserError, match=words):
        edits_of([text.format(folder)], CONFIG)


def test_the_vector_of_another_model_is_refused(folder):
    SteeringVector(np.ones(8, np.float32), 0, 2).save(folder / "narrow")
    with pytest.raises(UserError, match="of 2 layers of width 8, and this one has 2 of width 16"):
        edits_of([f"{folder / 'narrow'}:1"], CONFIG)
