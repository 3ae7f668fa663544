import numpy as np

from model.residual import Sandwich


def test_where_the_norms_sit(small, assert_equation):
    assert_equation(
        small(residual=Sandwich()),
        lambda x: (x := x + 0.5 * np.sin(2 * x + 1) - 1) + 0.25 * np.cos(3 * x - 1) + 2,
    )
