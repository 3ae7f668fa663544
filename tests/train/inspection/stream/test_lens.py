"""The lens over a text: its numbers against a forward pass, its page."""

import json

import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from tests.train.inspection.sources import BOTH, run_of
from train.inspection.stream.lens import inspect, reading
from train.inspection.subject import Subject
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def test_the_last_layer_is_the_model(run):
    ids = np.array([256, *b"the cat"], np.int32)
    found = reading(Subject.of(run), ids)
    z = np.asarray(forward(run.experiment.model, run.params, ids[None]).logits_BTV[0], np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    assert found.top_ids_LTk.shape == (3, 8, 5)
    np.testing.assert_array_equal(found.top_ids_LTk[-1, :, 0], log_p.argmax(-1))
    np.testing.assert_allclose(found.kl_LT[-1], 0, atol=1e-6)
    np.testing.assert_allclose(found.loss_LT[-1, :-1], -log_p[np.arange(7), ids[1:]], atol=1e-4)
    assert np.isnan(found.loss_LT[:, -1]).all()
    assert (found.rank_LT[-1] == 0).all()
    assert (found.kl_LT[0] > 1e-4).all()


def test_the_page_of_a_text(run, tmp_path):
    result = inspect(run, text="the café")
    page = result.write(tmp_path).read_text()
    assert "the first choice after every layer" in page
    numbers = json.loads((tmp_path / "result.json").read_text())
    assert len(numbers["logit_lens"]["kl"]) == 3
    assert numbers["layers"] == ["embedding", "layer 0", "layer 1"]


def test_a_text_beside_its_source():
    run = run_of(BOTH)
    one, other = (inspect(run, text="abc", source=source) for source in ("one", "another"))
    assert one.about.endswith("4 tokens, a source of 4")
    assert np.abs(one.arrays["logit_lens_kl_LT"] - other.arrays["logit_lens_kl_LT"]).max() > 1e-3
    np.testing.assert_allclose(one.arrays["logit_lens_kl_LT"][-1], 0, atol=1e-6)
    with pytest.raises(UserError, match="--tuned: its maps are trained on text without sources"):
        inspect(run, text="abc", source="one", tuned=True)
    with pytest.raises(UserError, match="--source is missing"):
        inspect(run, text="abc")
