"""Activation patching against forward passes, its estimate against finite differences, texts that do not fit."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.taps.request import Tap, Taps
from model.transformer import forward
from train.inspection.causes import patch as patching
from train.inspection.causes.patch import inspect, notes_on_change, patch
from train.run.loading import load_run


def difference(model, ids, edit=None):
    taps = Taps(edit=edit or {})
    last = forward(model.config, model.params, ids[None], taps=taps).logits_BTV[0, -1]
    return float(last[3] - last[5])


def test_effects_are_those_of_edits(model, question):
    found, clean, corrupt = patch(model, question, "ffn_output", [0], [4, 11])
    assert (clean, corrupt) == (
        pytest.approx(difference(model, question.clean), abs=1e-5),
        pytest.approx(difference(model, question.corrupt), abs=1e-5),
    )
    tap = Tap("ffn_output", layers=(0,))
    new = forward(model.config, model.params, question.clean[None], taps=(tap,)).taps["ffn_output"][0]
    for column, place in enumerate((4, 11)):
        edited = difference(model, question.corrupt, {tap: lambda x, site, p=place: x.at[:, p].set(new[:, p])})
        assert found.patched[0][column] == pytest.approx((edited - corrupt) / (clean - corrupt), abs=1e-4)


@pytest.mark.sweep
def test_estimates_are_derivatives(model, question):
    found, clean, corrupt = patch(model, question, "mixer_heads", [1], list(range(4, 12)))
    assert found.patched[1].shape == found.estimated[1].shape == (4,)
    tap, step = Tap("mixer_heads", layers=(1,)), 1e-2
    run = lambda ids: forward(model.config, model.params, ids[None], taps=(tap,)).taps["mixer_heads"][0]  # noqa: E731
    change = run(question.clean) - run(question.corrupt)
    for head in range(4):
        only = jnp.zeros_like(change).at[:, 4:, head].set(change[:, 4:, head])
        ends = [difference(model, question.corrupt, {tap: lambda x, s, f=f: x + f * step * only}) for f in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step) / (clean - corrupt)
        assert found.estimated[1][head] == pytest.approx(slope, abs=2e-3)


def test_patches_without_a_change_are_empty_or_refused(model, question):
    found, *_ = patch(model, question, "block_output", [0], [3, 4])
    assert np.isnan(found.patched[0][0])
    assert np.isnan(found.estimated[0][0])
    assert np.isfinite(found.patched[0][1])
    with pytest.raises(UserError, match="the activations of both texts are equal there"):
        patch(model, question, "block_output", [0], [0, 3])
    with pytest.raises(UserError, match="the same logit difference"):
        patch(model, question._replace(corrupt=question.clean), "block_output", [0], [3])


def test_of_more_positions_than_a_page_shows_a_sample_is_taken(question, monkeypatch):
    monkeypatch.setattr(patching, "MAX_POSITIONS", 3)
    places, notes = patching._places(question, None)
    assert places == [4, 8, 11]
    assert notes[1].startswith("A sample: 3 of the 8 tokens from 4 on, at equal distances; --positions chooses others")
    assert patching._places(question, [0, 1, 2, -1]) == ([0, 1, 2, 11], [])


def test_a_small_change_between_the_texts_is_said():
    assert notes_on_change(1.0, 0.5) == []
    assert "changes by only 0.050" in notes_on_change(1.0, 1.05)[0]


def test_a_page_of_a_run(tiny_run, tmp_path):
    run = load_run(tiny_run)
    result = inspect(run, text="the cat", corrupt="the dog", answer="a", wrong="b", taps=["mixer_output"])
    result.write(tmp_path)
    numbers = json.loads((tmp_path / "result.json").read_text())
    assert numbers["positions"] == [5, 6, 7]
    assert "same before token 5" in result.notes[0]
    effects = np.load(tmp_path / "arrays.npz")["mixer_output_patched"]
    assert effects.shape == (2, 3)
    # The last layer's attention has read its keys before: the page says why these are 0.
    assert (effects[1, :2] == 0).all()
    assert effects[1, 2] != 0
    assert "a patch at an earlier token comes too late" in result.parts[0].caption
    for arguments, words in (
        ({"corrupt": "the dogs"}, "--text has 8 tokens and --corrupt 9"),
        ({"corrupt": "the cat"}, "are the same text"),
        ({"corrupt": "the dog", "answer": "b"}, "the answer and the wrong answer are both 'b'"),
        ({"corrupt": "the dog", "answer": "ab"}, r"--answer='ab' is 2 tokens of this tokenizer \('a', 'b'\)"),
        ({"corrupt": "the dog", "positions": [8]}, "the texts have no token 8"),
    ):
        with pytest.raises(UserError, match=words):
            inspect(run, **{"text": "the cat", "answer": "a", "wrong": "b", "taps": ["mixer_output"]} | arguments)


def test_as_many_heads_as_positions_are_a_map_of_heads(tiny_run, monkeypatch):
    monkeypatch.setattr(patching, "MAX_POSITIONS", 2)
    given = {"text": "the cat", "corrupt": "dog cat", "answer": "a", "wrong": "b", "taps": ["query"], "layers": [1]}
    run = load_run(tiny_run)
    sampled, four = inspect(run, **given), inspect(run, **given, positions=[1, 2, 3, 4])
    assert [result.parts[0].data["columns"] for result in (sampled, four)] == [["0", "1", "2", "3"]] * 2
    assert sampled.numbers["positions"] == [1, 7]
    at_all = inspect(run, **given, positions=range(1, 8))
    np.testing.assert_array_equal(sampled.numbers["effects"]["query"][1], at_all.numbers["effects"]["query"][1])
