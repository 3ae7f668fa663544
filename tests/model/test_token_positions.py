"""Positions count within documents, for every packing of rows: the scores of a document equal those of it alone."""

import numpy as np
import pytest

from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LongRoPE
from model.token_positions import TokenPositions
from tests.tiers import representatives

SCALINGS = [
    DynamicNTK(factor=4.0, original_length=5),
    LongRoPE(short_factors=(1.0, 1.0), long_factors=(3.0, 5.0), original_length=5, factor=4.0),
]


@pytest.mark.parametrize("scaling", representatives(SCALINGS, SCALINGS[0]), ids=lambda scaling: type(scaling).__name__)
def test_a_document_is_turned_by_its_own_length(small, drawn, run, tokens, scaling):
    """Packed, padded, or alone, on both sides of the original length."""
    config = small(position=Rotary(theta=9.0, scaling=scaling))
    params = drawn(config)
    alone = {n: np.asarray(run(config, params, tokens[:1, :n])[0]) for n in (4, 7)}
    whole = np.asarray(run(config, params, tokens[:1])[0])
    assert np.abs(whole[:, :4] - alone[4]).max() > 1e-2  # by the length of the window it is another score

    lengths = np.array([4, 7], np.int32)
    padded = np.where(np.arange(12) < lengths[:, None], tokens[:1], 0).astype(np.int32)
    by_length = run(config, params, padded, lengths_B=lengths)[0]
    segment_ids = (np.arange(12) < lengths[:, None]).astype(np.int32)
    by_document = run(config, params, padded, segment_ids_BT=segment_ids)[0]
    packed = np.concatenate([tokens[:1, :7], tokens[:1, :4], [[0]]], axis=1).astype(np.int32)
    segment_ids, positions = (np.array([row], np.int32) for row in ([1] * 7 + [2] * 4 + [0], [*range(7), *range(4), 0]))
    close = {"rtol": 1e-4, "atol": 2e-5}
    for given in ({}, {"positions_BT": positions}):
        got = run(config, params, packed, segment_ids_BT=segment_ids, **given)[0]
        np.testing.assert_allclose(got[:, :7], alone[7], **close)
        np.testing.assert_allclose(got[:, 7:11], alone[4], **close)
    for row, length in enumerate(lengths):
        for got in (by_length, by_document):
            np.testing.assert_allclose(got[row : row + 1, :length], alone[length], **close)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: type(scaling).__name__)
def test_a_text_may_be_longer_than_what_is_read_of_it_now(small, drawn, run, tokens, scaling):
    config = small(position=Rotary(theta=9.0, scaling=scaling))
    params = drawn(config)
    full = run(config, params, tokens)[0]
    lengths = np.array([12, 12], np.int32)
    got = run(config, params, tokens[:, :4], text_lengths_B=lengths)[0]
    np.testing.assert_allclose(got, full[:, :4], rtol=1e-4, atol=2e-5)
    assert np.abs(got - run(config, params, tokens[:, :4])[0]).max() > 1e-2


@pytest.mark.parametrize(("documents", "promised"), [(True, True), (True, False), (False, True)])
def test_positions_are_consecutive_only_by_promise_and_within_documents(documents, promised):
    positions = np.zeros((1, 4), np.int32)
    asked = TokenPositions((1, 4), positions, positions if documents else None, None, None, False, promised)
    visibility = asked.visibility()
    assert visibility.consecutive_positions == visibility.distances_are_static == (documents and promised)
    assert TokenPositions((1, 4), None, None, None, None, False).visibility().distances_are_static
