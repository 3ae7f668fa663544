"""Positions that act on scores: the protocol between a position option and attention."""

import typing

import numpy as np
import pytest

from model.kernels.visibility import Coordinates
from model.parameters.maker import FanIn
from model.positions.absolute import LayerPosition
from model.positions.bias import AttentionPosition
from model.positions.relative import RelativeBias


@pytest.mark.parametrize("option", typing.get_args(LayerPosition), ids=lambda cls: cls.__name__)
def test_every_position_of_a_layer_answers(option, maker):
    """A table has a column for each head, and a bias has the shape of its block."""
    option = option()
    table = option.bias_table(3, maker(FanIn()))
    assert (None if table is None else table[...].shape) == ((32, 3) if isinstance(option, RelativeBias) else None)
    bias = option.bias(3, None if table is None else table[...])
    if bias is not None:
        block = bias(Coordinates(2, start=5), Coordinates(4))
        assert block.dtype == np.float32
        assert np.broadcast_shapes(block.shape, (1, 3, 2, 4)) == (1, 3, 2, 4)


def test_an_option_that_says_nothing_adds_nothing(maker):
    assert AttentionPosition().bias_table(3, maker(FanIn())) is None
    assert AttentionPosition().bias(3, None) is None
