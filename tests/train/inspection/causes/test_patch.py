"""Activation patching against forward passes, its estimate against finite differences, texts that do not fit."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.taps.request import Tap, Taps
from model.transformer import forward
from tests.train.inspection.sources import BOTH, run_of
from train.inspection.causes import patch as patching
from train.inspection.causes.patch import Effects, inspect, notes_on_change, patch
from train.inspection.causes.paths import inspect as paths
from train.inspection.text import Tokens
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
    text = Tokens(question.clean, ("a",) * 12, 0)
    places, notes = patching._places(question, text, None)
    assert (places, notes) == (
        [*range(4, 12)],
        ["The texts are the same before token 4, where no patch has an effect."],
    )
    assert patching._places(question, text, [0, 1, 2, -1]) == ([0, 1, 2, 11], [])
    monkeypatch.setattr(patching, "MAX_POSITIONS", 3)
    few, notes = patching._sample(places)
    assert few == [4, 8, 11]
    assert notes[0].startswith("A sample: 3 of 8 tokens, at equal distances; --positions chooses others")
    assert patching._sample([0, 1, 11]) == ([0, 1, 11], [])


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
        ({"corrupt": "the dog", "taps": ["query", "query"]}, "--taps=query,query names a tap twice"),
        ({"corrupt": "the dog", "positions": []}, "--positions is empty"),
        (
            {"corrupt": "the dog", "positions": [8]},
            "--positions: no token 8: the text has 8 tokens; give 0 to 7, or -1 for the last",
        ),
    ):
        with pytest.raises(UserError, match=words):
            inspect(run, **{"text": "the cat", "answer": "a", "wrong": "b", "taps": ["mixer_output"]} | arguments)


def test_as_many_heads_as_positions_are_a_map_of_heads(tiny_run, monkeypatch):
    monkeypatch.setattr(patching, "MAX_POSITIONS", 2)
    given = {"text": "the cat", "corrupt": "dog cat", "answer": "a", "wrong": "b", "taps": ["query"], "layers": [1]}
    run = load_run(tiny_run)
    sampled, four = inspect(run, **given), inspect(run, **given, positions=[1, 2, 3, 4])
    assert [result.parts[0].data["columns"] for result in (sampled, four)] == [["0", "1", "2", "3"]] * 2
    assert sampled.numbers["head_positions"] == [*range(1, 8)]
    assert four.numbers["head_positions"] == [1, 2, 3, 4]
    assert "positions" not in sampled.numbers
    assert not any("A sample" in note for note in sampled.notes)
    at_all = inspect(run, **given, positions=range(1, 8))
    np.testing.assert_array_equal(sampled.numbers["effects"]["query"][1], at_all.numbers["effects"]["query"][1])


def test_positions_of_a_cut_text_are_those_that_are_read(tiny_run):
    run, many = load_run(tiny_run), "the cat " * 9
    given = {"text": many, "corrupt": "the dog " * 9, "answer": "a", "wrong": "b", "taps": ["ffn_output"]}
    with pytest.raises(UserError, match="no token 40: only the first 32 tokens of the text are read; give 0 to 31"):
        inspect(run, **given, positions=[40])
    notes = inspect(run, **given, layers=[0], positions=[-1, 5, 6]).notes
    assert [note[:30] for note in notes[:2]] == ["The text has 73 tokens; these ", "--corrupt: The text has 73 tok"]


@pytest.mark.sweep
def test_positions_that_are_named_are_sampled_too(tiny_run, monkeypatch):
    monkeypatch.setattr(patching, "MAX_POSITIONS", 2)
    given = {"text": "the cat", "corrupt": "dog cat", "answer": "a", "wrong": "b", "layers": [1]}
    found = inspect(load_run(tiny_run), **given, taps=["block_output", "query"], positions=[1, 2, 3, 4])
    assert (found.numbers["positions"], found.numbers["head_positions"]) == ([1, 4], [1, 2, 3, 4])
    assert "A sample: 2 of 4 tokens" in found.notes[0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (([0.0, 1.0], [1.0, 0.5]), ""),
        (([np.nan, 1.0], [1.0, 0.5]), "says that both texts have the same activation there"),
        (([0.0, 1.0], [1.0]), "says that the layer has no such head"),
        (
            ([np.nan, 1.0], [1.0]),
            "says that both texts have the same activation there or that the layer has no such head",
        ),
    ],
)
def test_the_caption_of_a_map_says_what_its_dashes_are(rows, words):
    patched = dict(enumerate(map(np.array, rows)))
    assert patching._dashes(Effects(patched, patched), 2).endswith(words)
    assert bool(patching._dashes(Effects(patched, patched), 2)) == bool(words)


@pytest.mark.sweep
def test_no_effect_is_written_as_zero_not_as_minus_zero(tiny_run):
    found = inspect(load_run(tiny_run), text="the cat", corrupt="the dog", answer="a", wrong="b", taps=["mixer_output"])
    signs = {bool(np.signbit(x[:-1]).any()) for each in found.numbers["effects"].values() for x in [each[1]]}
    opposite = inspect(
        load_run(tiny_run), text="the cat", corrupt="the dog", answer="b", wrong="a", taps=["mixer_output"]
    )
    signs |= {bool(np.signbit(x[:-1]).any()) for each in opposite.numbers["effects"].values() for x in [each[1]]}
    assert signs == {False}


def test_effects_that_are_all_alike_or_too_few_have_no_correlation_with_estimates():
    def agreement(patched, estimated):
        return patching._agreement(Effects({0: np.array(patched)}, {0: np.array(estimated)}))

    assert agreement([0.0, 1.0, 3.0, np.nan], [0.0, 2.0, 5.0, np.nan]) == (pytest.approx(0.9972, abs=1e-4), 2.0)
    assert agreement([0.0, 1.0], [0.0, 2.0]) == (None, 1.0)
    assert agreement([1.0, 1.0 + 1e-7, 1.0], [0.1, 0.5, 0.9])[0] is None
    assert patching._correlation(None) == "\u2013"
    assert patching._table({"a": (None, 0.5)}).caption.startswith("Over all patches of a tap; a dash")


def test_beside_a_source_patching_everything_gives_the_clean_run():
    given = {"text": "abc", "corrupt": "abd", "answer": "a", "wrong": "b", "source": "one"}
    found = inspect(run_of(BOTH), **given, taps=["block_output", "cross_heads"], positions=[3])
    effects = found.numbers["effects"]
    assert [float(x[0]) for x in effects["block_output"].values()] == [1.0, 1.0]
    assert effects["cross_heads"][1].shape == (4,)
    assert found.about.endswith("after the corrupt one, a source of 4")
    with pytest.raises(UserError, match="gives one with --source to attention, lens, logits, stream, ablate, patch;"):
        paths(run_of(BOTH), text="abc", corrupt="abd")


@pytest.mark.filterwarnings("error")
def test_a_layer_where_no_patch_changes_an_activation_hides_no_effect_of_another(tiny_run):
    """The last token is the same in both texts, so its values differ from the second layer on."""
    given = {"text": "the cat", "corrupt": "the kat", "answer": "a", "wrong": "b", "taps": ["value"], "positions": [-1]}
    found = inspect(load_run(tiny_run), **given)
    effects = found.numbers["effects"]["value"]
    assert np.isnan(effects[0]).all()
    assert found.lines[0].startswith(f"value: largest effect {effects[1][np.abs(effects[1]).argmax()]:.3f}, ")
    assert patching._strongest(Effects({0: np.array([0.5, -2.0]), 1: np.array([np.nan, 1.0])}, {})) == -2.0
