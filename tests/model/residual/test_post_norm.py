import numpy as np
import pytest

from model.residual import PostNorm
from model.transformer import abstract_params

EQUATIONS = {
    PostNorm(): lambda x: 3 * ((x := 2 * (x + np.sin(x)) + 1) + np.cos(x)) - 1,
    PostNorm(alpha=1.5): lambda x: 3 * (1.5 * (x := 2 * (1.5 * x + np.sin(x)) + 1) + np.cos(x)) - 1,
}


@pytest.mark.parametrize("residual", EQUATIONS, ids=repr)
def test_where_the_norms_sit(small, assert_equation, residual):
    assert_equation(small(residual=residual), EQUATIONS[residual])


def test_the_stream_is_not_normalised_once_more(small):
    assert "final_norm" in abstract_params(small())
    assert "final_norm" not in abstract_params(small(residual=PostNorm()))
