"""What megablox refuses; test_grouped_products.py has its numbers."""

import jax.numpy as jnp
import pytest

from model.kernels.experts.megablox import Megablox
from tests.model.kernels.experts.test_grouped_products import request


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"platform": "tpu"}, None),
        ({"platform": "cpu"}, "it runs on a tpu, not on a cpu"),
        ({"platform": "tpu", "rows": 100}, "100 rows are no multiple of 128"),
        ({"platform": "tpu", "width": 100}, "matrices of 128 x 100 are no multiples of 128"),
        ({"platform": "tpu", "dtype": jnp.float16}, "it takes bfloat16 and float32, not float16"),
    ],
)
def test_what_megablox_refuses(asked, expected):
    assert Megablox().supports(request(**asked)) == expected
