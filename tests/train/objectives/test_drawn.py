import jax
import numpy as np
import pytest

from model.attention.directions import Bidirectional
from model.errors import UserError
from train.objectives.drawn import draws, refuse_draws, with_draws
from train.objectives.masked import MaskedTokens
from train.objectives.next_token import NextToken


def test_the_draw_follows_from_the_seed_and_the_step(small):
    tokens = np.arange(64, dtype=np.int32).reshape(2, 32) % 16
    batch = {"tokens": tokens, "text": np.ones((2, 32), np.int8)}
    model, objective = small(visibility=Bidirectional()), MaskedTokens(rate=0.5)
    of = lambda seed, step: with_draws(objective, model, batch, jax.random.key_data(jax.random.key(seed)), step)  # noqa: E731
    hidden = {at: np.asarray(of(*at)["hidden"]) for at in ((0, 0), (0, 1), (1, 0))}
    np.testing.assert_array_equal(hidden[0, 0], of(0, 0)["hidden"])
    for other in ((0, 1), (1, 0)):
        assert (hidden[0, 0] != hidden[other]).any()
    assert with_draws(NextToken(), model, batch, jax.random.key_data(jax.random.key(0)), 0) is batch


def test_commands_about_next_tokens_refuse_drawn_batches():
    assert (draws(MaskedTokens()), draws(NextToken())) == (True, False)
    refuse_draws(NextToken(), "replay")
    with pytest.raises(UserError, match="replay: the objective MaskedTokens draws a part of each batch"):
        refuse_draws(MaskedTokens(), "replay")
