import jax.numpy as jnp
import numpy as np

from model.vocabulary.multi_token import ahead


def test_ahead():
    np.testing.assert_array_equal(ahead(jnp.array([[1, 2, 3], [4, 5, 6]])), [[2, 3, 0], [5, 6, 0]])
