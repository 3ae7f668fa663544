"""Ablation against edits of a forward pass; ablations without effect are refused."""

import json

import numpy as np
import pytest

from model.errors import UserError
from model.taps.request import Tap, Taps
from model.transformer import forward
from train.inspection.causes.ablate import _table, inspect
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def loss(run, ids, edit):
    z = np.asarray(forward(run.experiment.model, run.params, ids[None], taps=Taps(edit=edit)).logits_BTV[0], np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return -log_p[np.arange(len(ids) - 1), ids[1:]].mean()


def test_the_rise_is_that_of_an_edit(run, tmp_path):
    result = inspect(run, text="the cat", taps=["mixer_heads"], layers=[1], positions=[2, -1])
    ids = np.array([256, *b"the cat"], np.int32)
    base = loss(run, ids, {})
    assert result.numbers["loss"] == pytest.approx(base, abs=1e-5)
    tap = Tap("mixer_heads", layers=(1,))
    mean = forward(run.experiment.model, run.params, ids[None], taps=(tap,)).taps["mixer_heads"][0].mean(1)
    for head in (0, 3):
        edit = {tap: lambda x, s, h=head: x.at[:, [2, 7], h].set(mean[:, h])}
        assert result.numbers["rise"]["mixer_heads"][1][head] == pytest.approx(loss(run, ids, edit) - base, abs=1e-5)
    result.write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["positions"] == [2, 7]


def test_other_replacements_and_texts(run):
    zero = inspect(run, text="the cat", taps=["ffn_output"], by="zero").numbers["rise"]["ffn_output"]
    other = inspect(run, text="the cat", taps=["ffn_output"], by="resample", reference="a dog sees birds")
    assert set(zero) == {0, 1}
    assert other.numbers["rise"]["ffn_output"][0] != pytest.approx(zero[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"by": "nothing"}, "--by='nothing' is no ablation"),
        ({"by": "zero", "reference": "a"}, "--reference has no effect with --by=zero"),
        ({"positions": [9]}, "no token 9: the text has 8 tokens; give 0 to 7"),
        ({"taps": ["query", "query"]}, "--taps=query,query names a tap twice"),
        ({"taps": []}, "--taps is empty; give names of taps, such as mixer_output,ffn_output"),
        ({"taps": ["mixer_outputs"]}, "did you mean 'mixer_output'"),
        ({"layers": [5]}, "has no layer 5"),
        ({"reference": "a"}, "--reference: the text has 1 tokens"),
    ],
)
def test_refused(run, arguments, words):
    with pytest.raises(UserError, match=words):
        inspect(run, text="the cat", **arguments)


def test_a_reference_that_is_cut_is_said(run):
    given = {"text": "the cat", "taps": ["ffn_output"], "layers": [0]}
    long = inspect(run, **given, reference="the cat " * 9)
    cut = "--reference has 72 tokens; the mean is that of its first 32: the model's context holds no more."
    assert long.notes == [cut]
    first = inspect(run, **given, reference="the cat " * 4)
    assert first.notes == []
    np.testing.assert_array_equal(long.numbers["rise"]["ffn_output"][0], first.numbers["rise"]["ffn_output"][0])
    assert inspect(run, **given, by="resample", reference="the cat " * 9).notes == []


def test_a_change_below_the_last_digit_has_no_minus():
    assert _table({"ffn_output": {0: np.array([-1e-7])}}).rows == [["ffn_output, layer 0", "+0.0000"]]
