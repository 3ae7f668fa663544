"""Path patching against two forward passes with edits; the last layer's heads have one path."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.taps.request import Tap, Taps
from model.transformer import forward
from train.inspection.causes.patch import notes_on_change, patch
from train.inspection.causes.paths import inspect, path_effects
from train.run.loading import load_run

HEADS = Tap("mixer_heads")


@pytest.mark.sweep
def test_the_last_layer_has_one_path_to_the_logits(model, question):
    found = path_effects(model, question)[0]
    effects = patch(model, question, "mixer_heads", [1], list(range(12)))[0]
    np.testing.assert_allclose(found[1], effects.patched[1], atol=1e-4)
    assert set(found) == {0, 1}


def test_a_path_is_two_passes_with_edits(model, question):
    found = path_effects(model, question, "query", -1)[0][0]
    run = lambda ids, **options: forward(model.config, model.params, ids[None], taps=Taps(**options))  # noqa: E731
    difference = lambda output: float(output.logits_BTV[0, -1, 3] - output.logits_BTV[0, -1, 5])  # noqa: E731
    clean, corrupt = run(question.clean, keep=(HEADS,)), run(question.corrupt, keep=(HEADS,))
    query = Tap("query", layers=(1,))
    head = 3
    mixed = corrupt.taps["mixer_heads"].at[0, :, :, head].set(clean.taps["mixer_heads"][0, :, :, head])
    first = run(question.corrupt, keep=(query,), edit={HEADS: lambda x, site: mixed[jnp.asarray(site.layer)]})
    changed = first.taps["query"][0]
    second = run(question.corrupt, edit={query: lambda x, site: changed})
    expected = (difference(second) - difference(corrupt)) / (difference(clean) - difference(corrupt))
    assert found[head] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("keys", 1), "'keys' can receive no path; did you mean 'key'"),
        (("logits", 1), "--layer is that of the receiver"),
        (("key", None), "--layer is that of the receiver"),
        (("key", 2), "--layer: the model has no layer 2"),
        (("key", 0), "no head comes before layer 0"),
    ],
)
def test_refused(model, question, arguments, words):
    with pytest.raises(UserError, match=words):
        path_effects(model, question, *arguments)


def test_the_page_of_a_run(tiny_run, tmp_path):
    result = inspect(load_run(tiny_run), text="the cat", corrupt="the dog", answer="a", wrong="b")
    assert result.arrays["effects"].shape == (2, 4)
    assert result.notes == notes_on_change(result.numbers["clean"], result.numbers["corrupt"])
    assert "Paths of heads to the logits" in result.write(tmp_path).read_text()
