"""Replacing a tap: nothing is the run itself, everything is the other run; replacements without effect are refused."""

import numpy as np
import pytest

from model.errors import UserError
from tests.tiers import representatives
from tests.train.inspection.models import FAMILIES, subject, tokens
from train.inspection.causes.patch import logit_difference
from train.inspection.causes.replace import Replacement, Replacer, check_tap, groups_of, refuse_no_change

ALL = tuple(range(12))


@pytest.fixture(scope="module", params=representatives(["gpt", "gemma"], "gemma"))
def model(request):
    return subject(FAMILIES[request.param])


@pytest.mark.parametrize("name", ["block_output", "mixer_heads"])
def test_everything_is_the_clean_run_and_nothing_the_corrupt_one(model, name):
    clean, corrupt = tokens()
    clean[-1] = corrupt[-1]  # as texts that end alike
    replacer = Replacer(model, name, (0, 1), logit_difference(model, 3, 5))
    values = replacer.activations(clean)
    own, other = replacer.unchanged(corrupt), replacer.unchanged(clean)
    assert own != other
    if name == "block_output":
        everything = [Replacement(1, ALL), Replacement(0, ALL)]
        np.testing.assert_array_equal(replacer(corrupt, values, everything), other)
    same = replacer(corrupt, replacer.activations(corrupt), [Replacement(0, ALL), Replacement(1, (3, 11))])
    np.testing.assert_array_equal(same, own)


def test_one_head_at_one_position_is_replaced(model):
    clean, corrupt = tokens()
    replacer = Replacer(model, "mixer_heads", (0, 1), logit_difference(model, 3, 5))
    values = replacer.activations(clean)
    found = replacer(corrupt, values, [Replacement(1, (11,), (unit,)) for unit in range(4)] * 3)
    assert len(found) == 12  # in two batches
    np.testing.assert_array_equal(found[:4], found[8:])
    assert len(set(found[:4].tolist())) == 4
    # The last layer's heads act on the last token alone: at an earlier one they change nothing.
    assert replacer(corrupt, values, [Replacement(1, (5,))])[0] == replacer.unchanged(corrupt)


def test_what_is_not_there_is_refused(model):
    replacer = Replacer(model, "mixer_heads", (1,), logit_difference(model, 3, 5))
    values = replacer.activations(tokens()[0])
    for replacement, words in (
        (Replacement(0, (1,)), "no layer 0 to replace it in; layers are 1"),
        (Replacement(1, (12,)), "position 12 is not there: the text has tokens 0 to 11"),
        (Replacement(1, ()), "at no position or in no unit changes nothing"),
        (Replacement(1, (1,), ()), "at no position or in no unit"),
        (Replacement(1, (1,), (4,)), "no head 4 in layer 1; heads are 0 to 3"),
    ):
        with pytest.raises(UserError, match=words):
            replacer(tokens()[0], values, [replacement])


def test_taps_that_cannot_be_replaced_are_refused():
    config = FAMILIES["gpt"]
    with pytest.raises(UserError, match="no tap 'mixer_head' can be replaced; did you mean 'mixer_heads'"):
        check_tap(config, "mixer_head")
    with pytest.raises(UserError, match="'attention_weights' can be replaced"):
        check_tap(config, "attention_weights")
    with pytest.raises(UserError, match="no layer of this model has the tap 'latent'"):
        groups_of(config, "latent", None)
    with pytest.raises(UserError, match="has no layer 2"):
        groups_of(config, "query", [2])


def test_replacements_that_change_nothing_are_refused(model):
    replacer = Replacer(model, "block_output", (0, 1), logit_difference(model, 3, 5))
    before = np.zeros((2, 12, 16), np.float32)
    after = before.copy()
    after[1, 4, 2] = 1
    assert not replacer.changes(before, after, Replacement(0, ALL))
    assert replacer.changes(before, after, Replacement(1, (4,)))
    assert not replacer.changes(before, after, Replacement(1, (5, 6)))
    with pytest.raises(UserError, match="'query': no replacement changes any activation, because x"):
        refuse_no_change("query", [False, False], "x")
