"""The layers that have a tap, and taps on the host."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.layers import Except
from model.layout import ONE_DEVICE
from model.recurrent.lstm import LSTM
from model.taps.request import Tap
from tests.train.inspection.models import FAMILIES, subject, tokens
from train.inspection.features.pages.neurons import inspect as neurons
from train.inspection.probes.probe import inspect as probe
from train.inspection.subject import Subject, by_layer, chosen_layers, layers_with
from train.parallel.mesh import parse_mesh
from train.run.loading import load_run

MIXED = dataclasses.replace(
    FAMILIES["llama"],
    num_layers=4,
    exceptions=(Except(layers="1", mixer=LSTM(num_heads=2)), Except(layers="3", mixer=GroupedQuery(num_heads=2))),
)


def test_layers_that_have_a_tap_are_found_with_its_shape():
    assert layers_with(MIXED, "attention_weights") == {0: (1, 4, 1, 1), 2: (1, 4, 1, 1), 3: (1, 2, 1, 1)}
    assert set(layers_with(MIXED, "cell")) == {1}
    assert chosen_layers(MIXED, "attention_weights", None) == [0, 2, 3]
    assert chosen_layers(MIXED, "attention_weights", [-1, 0]) == [3, 0]


@pytest.mark.parametrize(
    ("name", "layers", "words"),
    [
        ("attention_weight", None, "did you mean 'attention_weights'"),
        ("attention_weights", [4], "has no layer 4; its layers are 0 to 3"),
        ("attention_weights", [1], "layer 1 has no tap 'attention_weights'; layers that have it: 0, 2, 3"),
        ("attention_weights", [0, -4], "names a layer twice"),
        ("attention_weights", [], "--layers is empty; give numbers of layers, such as 0,-1"),
        ("router_logits", None, "no layer of this model has the tap 'router_logits'; its mixers are"),
    ],
)
def test_missing_taps_and_layers_are_refused(name, layers, words):
    with pytest.raises(UserError, match=words):
        chosen_layers(MIXED, name, layers)


def test_a_model_that_reads_a_source_is_refused_where_there_is_none():
    parts = {"mixer": GroupedQuery(num_heads=2), "ffn": MLP(width=8)}
    encoder = Encoder(num_layers=1, context_length=8, **parts, cross=CrossAttention(num_heads=2))
    experiment = SimpleNamespace(model=dataclasses.replace(FAMILIES["llama"], encoder=encoder))
    run = SimpleNamespace(folder="runs/both", experiment=experiment, layout=ONE_DEVICE, params=None)
    for look in (Subject.of, probe, neurons):
        with pytest.raises(
            UserError,
            match="runs/both has an encoder, and this gives it no source to read; launch.inspect gives one with --source to attention, lens",
        ):
            look(run)
    assert Subject.of(run, reads_text=False).config.encoder == encoder


@pytest.mark.sweep
def test_taps_of_different_shapes_are_read_by_layer():
    model = subject(MIXED)
    found = by_layer(model, tokens(1, 5), "attention_weights", [3, 0])
    assert {number: x.shape for number, x in found.items()} == {3: (1, 2, 5, 5), 0: (1, 4, 5, 5)}
    assert list(found) == [3, 0]
    for weights in found.values():
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_a_mesh_changes_no_number(tiny_run):
    ids, tap = tokens(1, 6), Tap("attention_weights")
    many = Subject.of(load_run(tiny_run, mesh=parse_mesh("fsdp=4,tensor=2")))
    assert many.layout.ways("heads") == 2
    one = Subject(many.config, jax.device_get(many.params))
    np.testing.assert_allclose(many.taps(ids, tap)[tap.name], one.taps(ids, tap)[tap.name], atol=1e-6)
