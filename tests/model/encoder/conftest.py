"""A small encoder-decoder model, and a source with padding."""

import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.feedforward.mlp import MLP


def encoder_of(**changes):
    fields = {
        "num_layers": 2,
        "context_length": 12,
        "mixer": GroupedQuery(num_heads=2),
        "ffn": MLP(width=20),
        "cross": CrossAttention(num_heads=4, num_kv_heads=2),
    }
    return Encoder(**fields | changes)


@pytest.fixture(scope="session")
def pair(small):
    """The small model with an encoder; fields of the encoder change by `encoder`."""

    def make(encoder=None, **changes):
        return small(encoder=encoder_of(**(encoder or {})), **changes)

    return make


@pytest.fixture(scope="session")
def source():
    """Rows of 9 and of 6 tokens."""
    tokens = np.random.default_rng(2).integers(0, 17, (2, 9)).astype(np.int32)
    return Source.of_lengths(tokens, np.array([9, 6]))
