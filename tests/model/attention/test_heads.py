import pytest

from model.attention.heads import divisors


@pytest.mark.parametrize("number", [1, 2, 7, 12, 36, 64, 97, 720])
def test_divisors_are_those_that_a_loop_finds(number):
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]
