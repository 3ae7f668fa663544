"""A module with a cache predicts what it predicts in training."""

import jax
import numpy as np
import pytest

from model.inference.tokens_ahead import tokens_ahead
from model.stack import empty_caches
from model.transformer import forward, logits
from model.vocabulary.multi_token import MultiToken, shift_left
from tests.model.conftest import drawn_params, small_config


def test_its_loss_is_that_of_training():
    config = small_config(multi_token=MultiToken(weight=0.5))
    params, tokens = drawn_params(config), np.random.default_rng(1).integers(0, 17, (2, 12)).astype(np.int32)
    ones = np.ones((2, 12), np.float32)
    output = forward(config, params, tokens, taps=["block_output"], weights_BT=ones, targets_BT=shift_left(tokens))
    lengths = np.full(2, 12, np.int32)
    _, normed_BTD, cache = tokens_ahead(
        config,
        params,
        0,
        output.taps["block_output"][-1],
        shift_left(tokens),
        positions_BT=np.broadcast_to(np.arange(12, dtype=np.int32), (2, 12)),
        cache=empty_caches(config, 2, 12)["1"],
        lengths_B=lengths,
        text_lengths_B=lengths,
    )
    assert np.any(cache.arrays["k"])
    logprobs = jax.nn.log_softmax(logits(config, params, normed_BTD))
    targets = np.asarray(shift_left(shift_left(tokens)))[:, :11]  # the last token has no module's loss
    found = -np.take_along_axis(np.asarray(logprobs)[:, :11], targets[..., None], axis=-1).sum()
    assert 0.5 * found == pytest.approx(float(output.losses["multi_token_loss"]), rel=1e-5)
