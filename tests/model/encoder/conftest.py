"""A small encoder-decoder model, and a source with padding."""

import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.feedforward.mlp import MLP
from model.stack import empty_caches
from tests.model.encoder.parts import read_in_parts


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


@pytest.fixture(scope="session")
def in_parts(run):
    """The logits of two rows of 12 tokens that are read in parts; the first reads the source, the cache has more room."""

    def of(config, params, tokens, source):
        def step(tokens, positions, cache, source):
            return run(config, params, tokens, positions_BT=positions, cache=cache, **source)[:2]

        return read_in_parts(step, tokens, (5, 1, 6), empty_caches(config, 2, 12, 11), {"source": source})

    return of


@pytest.fixture(scope="session")
def packed_pairs(run):
    """The logits of two targets of 5 tokens in one row, and all of the first source and 3 tokens of the second."""

    def of(config, params, targets, source):
        real = np.concatenate([source.tokens_BS[0], source.tokens_BS[1][:3]])[None]
        logits, _, _ = run(
            config,
            params,
            targets.reshape(1, 10),
            positions_BT=np.tile(np.arange(5), 2)[None],
            segment_ids_BT=np.repeat([0, 1], 5)[None],
            source=Source(real, np.r_[np.arange(9), np.arange(3)][None], np.repeat([0, 1], [9, 3])[None]),
        )
        return logits.reshape(2, 5, -1)

    return of
