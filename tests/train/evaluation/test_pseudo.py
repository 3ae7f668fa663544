"""Pseudo-perplexity against a loop that masks one token at a time, and the windows of long texts."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from model.attention.directions import Bidirectional
from model.errors import UserError
from model.transformer import forward
from tests.model.conftest import drawn_params, small_config
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.evaluation.document_scores import Kept
from train.evaluation.documents import from_text
from train.evaluation.pseudo import Marks, marks_of, middle_windows, score_masked
from train.objectives.masked import MaskedTokens
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of

TOKENIZER = BytesTokenizer(Bytes())
TEXTS = ["ab", "hello", "", "a text of more than ten bytes"]


@pytest.fixture(scope="module")
def model():
    return small_config(vocab_size=258, context_length=12, visibility=Bidirectional())


@pytest.fixture(scope="module")
def params(model):
    return drawn_params(model)


@pytest.fixture(scope="module")
def layout():
    return layout_of(make_mesh(Mesh()), Sharding())


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, ids):
    return forward(model, params, ids).logits_BTV


def by_loop(model, params, ids, marks, size, stride):
    """The loss of every token of a text, one forward pass for each, without padding."""
    losses = []
    for begin, first, last, stop in middle_windows(len(ids), size, stride):
        for token in range(first, last):
            row = [*([] if marks.begin is None else [marks.begin]), *ids[begin:stop]]
            row += [] if marks.end is None else [marks.end]
            at = token - begin + (marks.begin is not None)
            row[at] = marks.mask
            logits = np.asarray(logits_of(model, params, np.array([row], np.int32)), np.float64)[0, at]
            losses.append(np.log(np.exp(logits).sum()) - logits[ids[token]])
    return losses


SWEPT = [pytest.param(marks, marks=pytest.mark.sweep) for marks in (Marks(257, 256, None), Marks(7, None, None))]


@pytest.mark.parametrize("marks", [Marks(257, 1, 2), *SWEPT], ids=str)
def test_each_token_given_all_others(marks, model, params, layout):
    documents = [from_text(TOKENIZER, str(i), text) for i, text in enumerate(TEXTS)]
    scores = score_masked(
        model, params, documents, marks=marks, layout=layout, stride=6, batch_size=8, kept=Kept(100, 1000)
    )
    assert [score.name for score in scores] == ["0", "1", "3"]
    size = 12 - (marks.begin is not None) - (marks.end is not None)
    for score in scores:
        ids = TOKENIZER.encode(TEXTS[int(score.name)])
        expected = by_loop(model, params, ids.tolist(), marks, size, 6)
        np.testing.assert_allclose(score.losses, expected, rtol=1e-4, atol=1e-4)
        assert score.sums.nll == pytest.approx(sum(expected), rel=1e-4)
        assert (score.sums.tokens, score.sums.bytes) == (len(ids), len(ids))


@pytest.mark.parametrize(
    ("tokens", "size", "stride"), [(5, 8, 4), (8, 8, 4), (9, 8, 4), (50, 8, 3), (31, 7, 7), (20, 6, 1)]
)
def test_windows_score_every_token_once_with_text_on_both_sides(tokens, size, stride):
    found = list(middle_windows(tokens, size, stride))
    assert [t for one in found for t in range(one.first, one.last)] == list(range(tokens))
    for one in found:
        assert one.stop - one.begin == min(size, tokens)
        assert one.begin <= one.first < one.last <= one.stop
        margin = (size - stride) // 2
        assert one.first == 0 or one.first - one.begin >= margin
        assert one.last == tokens or one.stop - one.last >= margin


def test_stored_scores_are_not_computed_again(model, params, layout):
    documents = [from_text(TOKENIZER, str(i), text) for i, text in enumerate(TEXTS)]
    options = dict(marks=Marks(257, 256, None), layout=layout, stride=6, batch_size=4)
    whole = score_masked(model, params, documents, **options)
    stored = {score.number: score for score in whole[:2]}
    again = score_masked(model, params, documents, stored=stored, **options)
    assert [score.sums for score in again] == [score.sums for score in whole]


def test_marks_of_a_run(tiny_experiment):
    experiment = tiny_experiment(
        objective=MaskedTokens(), model__visibility="Bidirectional()", model__vocab_size=258, samples__prompts=()
    )
    assert marks_of(experiment, TOKENIZER) == Marks(257, 256, None)
    assert marks_of(tiny_experiment(), TOKENIZER) is None
    published = dataclasses.replace(experiment, objective=MaskedTokens(mask_id=3))
    assert marks_of(published, TOKENIZER) == Marks(3, 256, 256)


def test_texts_and_windows_that_do_not_fit(model, params, layout):
    options = dict(marks=Marks(257, 1, 2), layout=layout)
    empty = [from_text(TOKENIZER, "0", "")]
    with pytest.raises(UserError, match="there is no token to score"):
        score_masked(model, params, empty, stride=6, **options)
    with pytest.raises(UserError, match="a window of 2 tokens has no room beside 2 marks"):
        score_masked(model, params, empty, stride=1, window=2, **options)
    with pytest.raises(UserError, match="the window must be from 1 to the model's context of 12"):
        score_masked(model, params, empty, stride=1, window=13, **options)
