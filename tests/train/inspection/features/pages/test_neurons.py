"""Pages of neurons: top texts of the entries of a tap, and the logits of what a feed-forward's neurons write."""

import jax
import numpy as np

from train.inspection.features.pages.neurons import inspect
from train.inspection.subject import Subject
from train.inspection.weights import of_layer


def test_neurons_of_a_feed_forward(loaded):
    result = inspect(loaded, layer=0, units=[3, 60], batches=1, examples=2)
    assert result.numbers["units"] == [3, 60]
    first, second = result.parts[0].data["units"]
    assert (first["density"], first["examples"]) == (0.0, [])  # it is below zero everywhere
    assert len(second["examples"]) == 2
    subject = Subject.of(loaded)
    down = np.asarray(jax.device_get(of_layer(subject.config, subject.params, 0)["ffn"]["down"]))[3]
    logits = result.arrays["logits"][0]
    from model.transformer import unembedding

    scale = np.asarray(loaded.params["final_norm"]["scale"])
    expected = down / np.sqrt(np.mean(down**2)) * scale @ np.asarray(unembedding(subject.config, loaded.params).w_DV)
    np.testing.assert_allclose(logits, expected - expected.mean(), rtol=2e-2, atol=2e-3)


def test_heads_have_texts_and_no_logits(loaded):
    result = inspect(loaded, tap="mixer_heads", layer=-1, batches=1)
    assert len(result.numbers["units"]) == 32
    assert "logits" not in result.arrays
    assert result.notes == []
