"""Positions, layers and tokens that a user names."""

import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from tests.train.inspection.models import FAMILIES, subject, tokens
from train.inspection.choice import layer_in, position_in, positions_in, predictions, single_token
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
