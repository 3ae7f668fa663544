import pytest

from model.errors import UserError
from model.options.tree import check
from model.residual import Multipliers


@pytest.mark.parametrize("name", ["embedding", "residual", "logits"])
def test_factors_of_zero_or_less_are_refused(name):
    with pytest.raises(UserError, match=f"{name}: must be above 0, got 0.0"):
        check(Multipliers(**{name: 0.0}))
