"""The stream: every token of a block once, equal to the model's taps, and a function of the block's number."""

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.taps.request import Tap
from model.transformer import stream
from tests.train.inspection.features.conftest import features_of
from train.data.batches.rows import FIELDS
from train.inspection.features.training.settings import Autoencoder, Site
from train.inspection.features.training.stream import ActivationStream, take


@pytest.fixture(scope="module")
def opened(loaded):
    return ActivationStream(loaded, features_of())


def test_a_block_has_the_activations_of_the_runs_batches(opened, loaded):
    block = opened.block(1)
    assert opened.batches_per_block == 2  # 300 tokens hold two batches of 8 x 16
    assert opened.steps_per_block == 4
    batches = loaded.experiment.data.training_batches(loaded.dataset(), tuple(FIELDS))
    taps = (Tap("block_output", (1,)), Tap("mixer_heads", (0,)), Tap("mixer_output", (0,)))
    model, params = loaded.experiment.model, jax.device_put(jax.device_get(loaded.params), jax.devices()[0])
    single = jax.jit(lambda p, t, d: stream(model, p, t, **d, taps=taps).taps)
    for k in range(2):
        batch = batches.rows(2 + k)
        documents = {"positions_BT": batch["positions"], "segment_ids_BT": batch["segment_ids"]}
        kept = single(params, batch["tokens"], documents)
        expected = np.asarray(kept["block_output"][0]).reshape(128, -1)
        np.testing.assert_allclose(block.activations[Site("block_output", 1)][k], expected, rtol=2e-4, atol=2e-5)
        heads = np.asarray(kept["mixer_heads"][0]).reshape(128, -1)  # the heads of a token side by side
        np.testing.assert_allclose(block.activations[Site("mixer_heads", 0)][k], heads, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(block.weights_KR[k], (batch["positions"] >= 1).ravel())


def test_updates_take_every_token_once(opened):
    block = opened.block(0)
    order = np.asarray(block.order)
    assert sorted(order) == list(range(256))
    assert list(order) != sorted(order)
    site = Site("block_output", 1)
    flat = np.asarray(block.activations[site]).reshape(256, -1)
    found = take(block, np.int32(64), 64)
    np.testing.assert_array_equal(found.activations[site], flat[order[64:128]])
    np.testing.assert_array_equal(found.weights_B, np.asarray(block.weights_KR).ravel()[order[64:128]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tap": "block_outputs"}, "no tap is called 'block_outputs'.*block_output"),
        ({"tap": "attention_weights"}, "no vector for each token"),
        ({"tap": "latent", "layer": 0}, "no tap is called 'latent'"),
        ({"layer": 7}, "a.layer: the model has no layer 7; layers are 0 to 1"),
        ({"tap": "final_norm", "layer": 0}, "outside of the layers"),
    ],
)
def test_a_place_that_is_not_there_is_refused(loaded, changes, words):
    with pytest.raises(UserError, match=words):
        ActivationStream(loaded, features_of(autoencoders=(Autoencoder(name="a", **changes),)))


def test_a_batch_of_more_tokens_than_the_buffer_holds_is_refused(loaded):
    with pytest.raises(UserError, match="batch_tokens: 290 is more than the 2 batches of 128 tokens"):
        ActivationStream(loaded, features_of(batch_tokens=290))
