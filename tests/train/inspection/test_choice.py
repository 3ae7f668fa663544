"""Positions, layers and tokens that a user names."""

import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from tests.train.inspection.models import FAMILIES, subject, tokens
from train.inspection.choice import Heads, heads_in, layer_in, position_in, positions_in, predictions, single_token
from train.inspection.text import Tokens
from train.run.loading import load_run


def test_positions_count_from_both_ends():
    text = Tokens(np.arange(4), ("a",) * 4, 0)
    assert [position_in(text, n) for n in (0, 3, -1, -4)] == [0, 3, 3, 0]
    for n in (4, -5):
        with pytest.raises(UserError, match="the text has 4 tokens; give 0 to 3, or -1"):
            position_in(text, n)
    with pytest.raises(UserError, match="only the first 2 tokens of the text are read; give 0 to 1"):
        position_in(Tokens(np.arange(2), ("a",) * 2, 0, ("The text has 9 tokens.",)), 3)


def test_positions_are_taken_once():
    text = Tokens(np.arange(4), ("a",) * 4, 0)
    assert positions_in(text, [3, -1, 0]) == [3, 0]
    with pytest.raises(UserError, match="--positions: no token 4: the text has 4 tokens; give 0 to 3"):
        positions_in(text, [0, 4])
    with pytest.raises(UserError, match="--positions is empty"):
        positions_in(text, [])


def test_heads_are_found_in_each_part_that_has_them():
    parts = [Heads(2, {0: 4, 1: 4}), Heads(3, {0: 2, 2: 2})]
    assert heads_in(parts, ["0.3", "-1.1", "0.0"], None) == [{0: [0, 3], 1: [1]}, {0: [0], 2: [1]}]


@pytest.mark.parametrize(
    ("names", "layers", "words"),
    [
        (["0.4"], None, "there is no head 0.4; the nearest is 0.3, as layer 0 has heads 0 to 3"),
        (["1.0"], None, "there is no head 1.0; the nearest is 0.0, as layer 0 has heads 0 to 3"),
        (["9.5"], None, "there is no head 9.5; the nearest is 2.0, as layer 2 has one head"),
        (["-4.1"], None, "there is no head -4.1; the nearest is 0.1,"),
        (["0.1", "-3.1"], None, "--heads=0.1,-3.1 names head 0.1 twice"),
        (["1"], None, "--heads='1': expected a layer and a head, such as 1.4"),
        (["1.-1"], None, "expected a layer and a head"),
        ([], None, "--heads is empty"),
        (["0.1"], [0], "--layers has no effect beside --heads"),
    ],
)
def test_heads_that_are_not_there_are_refused_with_the_nearest(names, layers, words):
    with pytest.raises(UserError, match=words):
        heads_in([Heads(3, {0: 4, 2: 1})], names, layers)


def test_layers_count_from_both_ends():
    assert [layer_in(FAMILIES["llama"], n) for n in (0, 1, -1, -2)] == [0, 1, 1, 0]
    for n in (2, -3):
        with pytest.raises(UserError, match=f"--layer={n}: the model has layers 0 to 1, -1 is the last"):
            layer_in(FAMILIES["llama"], n)


def test_predictions_are_those_of_the_model():
    model, ids = subject(FAMILIES["gemma"]), tokens(1)[0]
    z = np.asarray(forward(model.config, model.params, ids[None]).logits_BTV[0, 5], np.float64)
    np.testing.assert_allclose(predictions(model, ids, 5), z - np.log(np.exp(z).sum()), atol=1e-5)


def test_an_answer_is_one_token(tiny_run):
    run = load_run(tiny_run)
    assert single_token(run, "a", "answer") == 97
    with pytest.raises(UserError, match="--answer='' is 0 tokens of this tokenizer"):
        single_token(run, "", "answer")
