"""The parameters of one layer among stacks of layers."""

import dataclasses

import numpy as np

from model.layers import Except
from model.recurrent.lstm import LSTM
from tests.train.inspection.models import FAMILIES, subject
from train.inspection.weights import of_layer


def test_a_layer_is_found_in_its_stack():
    alike = subject(FAMILIES["llama"])
    query = alike.params["blocks"]["mixer"]["query"]
    np.testing.assert_array_equal(of_layer(alike.config, alike.params, 1)["mixer"]["query"], query[1])
    mixed = dataclasses.replace(
        FAMILIES["llama"], num_layers=4, exceptions=(Except(layers="1::2", mixer=LSTM(num_heads=2)),)
    )
    model = subject(mixed)
    blocks = model.params["blocks"]
    np.testing.assert_array_equal(of_layer(mixed, model.params, 2)["mixer"]["query"], blocks["0"]["mixer"]["query"][1])
    np.testing.assert_array_equal(of_layer(mixed, model.params, 3)["ffn"]["up"], blocks["1"]["ffn"]["up"][1])
