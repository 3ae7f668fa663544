import numpy as np
import pytest

from model.residual import Parallel

EQUATIONS = {
    Parallel(): lambda x: x + np.sin(2 * x + 1) + np.cos(2 * x + 1),
    Parallel(shared_norm=False): lambda x: x + np.sin(2 * x + 1) + np.cos(3 * x - 1),
}


@pytest.mark.parametrize("residual", EQUATIONS, ids=repr)
def test_where_the_norms_sit(small, assert_equation, residual):
    assert_equation(small(residual=residual), EQUATIONS[residual])
