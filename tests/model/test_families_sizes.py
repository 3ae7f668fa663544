"""Published models by name have the parameters that are published."""

import pytest

from model.errors import UserError
from model.families.sizes import SIZES, published
from model.flops import count_parameters
from tests.parity.sizes import ACTIVE, PUBLISHED, active, total


def test_every_model_but_grok_has_a_published_count():
    assert set(SIZES) - set(PUBLISHED) == {"grok-1"}  # whose publishers say 314 billion, and no number


@pytest.mark.parametrize("name", SIZES)
def test_all_parameters(name):
    count = total(name)
    assert count == PUBLISHED.get(name, 315_684_820_992)
    assert count == count_parameters(published(name)).total


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name):
    unit = 0.1 if "." in ACTIVE[name] else 1.0
    assert abs(active(name) / 1e9 - float(ACTIVE[name])) < unit


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="no published model is called 'llama-2-7c'; did you mean 'llama-2-7b'"):
        published("llama-2-7c")
