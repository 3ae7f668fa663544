"""Which tokens of a source are seen, as literal matrices."""

import jax.numpy as jnp
import numpy as np

from model.encoder.source import PADDING, Source, visible_source
from model.kernels.visibility import Coordinates


def test_lengths_are_documents_and_padding():
    source = Source.of_lengths(jnp.zeros((2, 4), jnp.int32), jnp.array([4, 2]))
    np.testing.assert_array_equal(source.segment_ids_BS, [[0, 0, 0, 0], [0, 0, PADDING, PADDING]])


def test_every_token_sees_a_source_without_documents():
    assert visible_source(Coordinates(3), 5, None).mask() is None


def test_padding_is_not_seen():
    mask = visible_source(Coordinates(2), 3, jnp.array([[0, 0, 0], [0, PADDING, PADDING]])).mask()
    np.testing.assert_array_equal(mask, [[[1, 1, 1], [1, 1, 1]], [[1, 0, 0], [1, 0, 0]]])


def test_documents_see_their_own_source():
    mask = visible_source(Coordinates(3, segment_ids=jnp.array([[0, 1, 1]])), 4, jnp.array([[0, 0, 1, PADDING]])).mask()
    np.testing.assert_array_equal(mask, [[[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]])
