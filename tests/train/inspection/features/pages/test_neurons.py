"""Pages of neurons: top texts of the entries of a tap, and the logits of what a feed-forward's neurons write."""

import dataclasses

import jax
import numpy as np

from model.residual import HyperConnections
from tests.train.inspection.models import FAMILIES, subject
from train.inspection.features.pages.neurons import inspect, logits_of
from train.inspection.subject import Subject
from train.inspection.weights import of_layer


def test_neurons_of_a_feed_forward(loaded):
    result = inspect(loaded, layer=0, units=[3, 60], batches=1, examples=2)
    assert result.numbers["units"] == [3, 60]
    first, second = result.parts[0].data["units"]
    assert (first["density"], first["examples"]) == (0.0, [])  # it is below zero everywhere
    assert len(second["examples"]) == 2
    model = Subject.of(loaded)
    down = np.asarray(jax.device_get(of_layer(model.config, model.params, 0)["ffn"]["down"]))[3]
    logits = result.arrays["logits"][0]
    from model.transformer import unembedding

    scale = np.asarray(loaded.params["final_norm"]["scale"])
    expected = down / np.sqrt(np.mean(down**2)) * scale @ np.asarray(unembedding(model.config, loaded.params).w_DV)
    np.testing.assert_allclose(logits, expected - expected.mean(), rtol=2e-2, atol=2e-3)


def test_heads_have_texts_and_no_logits(loaded):
    result = inspect(loaded, tap="mixer_heads", layer=-1, batches=1)
    assert len(result.numbers["units"]) == 32
    assert "logits" not in result.arrays
    assert result.notes == []


def test_a_tap_outside_of_the_layers_needs_no_layer(loaded):
    result = inspect(loaded, tap="embedding", units=[0], batches=1)
    assert result.lines == [f"1 neurons of embedding on {result.numbers['tokens']:,} tokens"]


def test_a_norm_after_the_feed_forward_turns_what_a_neuron_writes():
    model, unit = subject(FAMILIES["gemma"]), lambda x: x / np.sqrt(np.mean(x**2))
    layer = of_layer(model.config, model.params, 1)
    written = np.asarray(layer["ffn"]["down"])[5] * (1 + np.asarray(layer["residual"]["ffn_output_norm"]["scale"]))
    read = unit(written) * (1 + np.asarray(model.params["final_norm"]["scale"]))
    expected = 3 * np.tanh(np.asarray(model.params["embedding"]["table"]) @ read / 3)
    (found,) = logits_of(model, "ffn_hidden", 1, [5])
    np.testing.assert_allclose(found, expected - expected.mean(), rtol=1e-3, atol=1e-3)


def test_several_streams_have_no_one_vector_to_write_to():
    model = subject(dataclasses.replace(FAMILIES["llama"], residual=HyperConnections(streams=2)))
    assert logits_of(model, "ffn_hidden", 1, [5]) is None
