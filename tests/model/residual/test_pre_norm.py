import numpy as np

from model.residual import PreNorm


def test_where_the_norms_sit(small, assert_equation):
    assert_equation(small(residual=PreNorm()), lambda x: (x := x + np.sin(2 * x + 1)) + np.cos(3 * x - 1))
