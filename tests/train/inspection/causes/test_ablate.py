"""Ablation against edits of a forward pass; ablations without effect are refused."""

import json

import jax
import numpy as np
import pytest

from model.encoder.source import Source
from model.errors import UserError
from model.taps.request import Tap, Taps
from model.transformer import forward
from tests.train.inspection.sources import BOTH, run_of
from train.inspection.causes.ablate import DEFAULT_TAPS, _table, inspect
from train.inspection.causes.replace import chosen_taps
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
        ({"heads": ["1.4"]}, "--heads: there is no head 1.4; the nearest is 1.3, as layer 1 has heads 0 to 3"),
        ({"heads": ["0.3"], "taps": ["key"]}, "there is no head 0.3; the nearest is 0.1"),
        ({"heads": ["1.3"], "taps": ["ffn_output"]}, "--heads: the tap 'ffn_output' has no heads"),
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


@pytest.mark.parametrize("by", ["mean", "resample"])
def test_heads_are_replaced_by_themselves_and_together(run, by, tmp_path):
    given = {"text": "the cat", "by": by, "positions": [2, -1], "reference": "a dog sees the bird"}
    result = inspect(run, **given, heads=["1.3", "0.2", "-1.0"])
    assert list(result.numbers["rise"]) == ["mixer_heads"]
    whole = inspect(run, **given, taps=["mixer_heads"]).numbers["rise"]["mixer_heads"]
    rise = result.numbers["rise"]["mixer_heads"]
    for layer, heads in ((0, [2]), (1, [0, 3])):
        assert np.flatnonzero(np.isfinite(rise[layer])).tolist() == heads
        np.testing.assert_allclose(rise[layer][heads], whole[layer][heads], atol=1e-6)
    table = {part.title: part for part in result.parts}["These heads together"]
    assert table.rows[0][:2] == ["mixer_heads", "0.2, 1.0, 1.3"]
    result.write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["rise"]["mixer_heads"]["0"][0] is None
    if by == "mean":
        mean = mean_heads(run, "a dog sees the bird")
        edit = {
            Tap("mixer_heads", layers=(0,)): lambda x, s: x.at[:, [2, 7], 2].set(mean[0, 0, 2]),
            Tap("mixer_heads", layers=(1,)): lambda x, s: (
                x.at[:, [2, 7], 0].set(mean[1, 0, 0]).at[:, [2, 7], 3].set(mean[1, 0, 3])
            ),
        }
        ids = np.array([256, *b"the cat"], np.int32)
        expected = loss(run, ids, edit) - loss(run, ids, {})
        assert result.numbers["together"]["mixer_heads"] == pytest.approx(expected, abs=1e-5)


def mean_heads(run, text):
    """The mean of the heads over a text, (L, 1, N, H)."""
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    taps = forward(run.experiment.model, run.params, ids[None], taps=("mixer_heads",)).taps
    return np.asarray(taps["mixer_heads"].mean(2))


@pytest.mark.sweep
def test_one_head_together_is_that_head(run):
    for by in ("zero", "resample"):
        found = inspect(run, text="the cat", by=by, heads=["1.2"], taps=["mixer_heads", "query"]).numbers
        for name in ("mixer_heads", "query"):
            assert found["together"][name] == pytest.approx(found["rise"][name][1][2], abs=1e-6)


def test_cross_attention_is_replaced_beside_a_source():
    run = run_of(BOTH)
    usual = ["mixer_output", "cross_output", "ffn_output", "mixer_heads", "cross_heads"]
    assert chosen_taps(BOTH, None, DEFAULT_TAPS) == usual
    with pytest.raises(UserError, match="tap 'mixer_heads': --heads: there is no head 1.3; the nearest is 1.1"):
        inspect(run, text="abc", source="one", heads=["1.3"])
    found = inspect(run, text="abc", source="one", by="zero", taps=["cross_heads"], heads=["1.0", "1.1", "1.2", "1.3"])
    ids, source = np.array([7, *b"abc"], np.int32), Source(tokens_BS=np.array([[*b"one", 256]], np.int32))

    def lost(tap, edit):
        edits = {Tap(tap, layers=(1,)): edit}
        run_once = jax.jit(
            lambda params: forward(BOTH, params, ids[None], taps=Taps(edit=edits), source=source).logits_BTV
        )
        z = np.asarray(run_once(run.params)[0], np.float64)
        return -(z - np.log(np.exp(z).sum(-1, keepdims=True)))[np.arange(3), ids[1:]].mean()

    base, rise = found.numbers["loss"], found.numbers["rise"]["cross_heads"]
    assert rise[1][2] == pytest.approx(lost("cross_heads", lambda x, s: x.at[:, :, 2].set(0)) - base, abs=1e-5)
    together = found.numbers["together"]["cross_heads"]
    assert together == pytest.approx(lost("cross_output", lambda x, s: 0 * x) - base, abs=1e-5)
