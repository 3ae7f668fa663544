import numpy as np

from model.residual import Reordered


def test_where_the_norms_sit(small, assert_equation):
    assert_equation(small(residual=Reordered()), lambda x: (x := x + 0.5 * np.sin(x) - 1) + 0.25 * np.cos(x) + 2)
