import pytest

from model.attention.heads import divisors, problems_of_heads


@pytest.mark.parametrize("number", [1, 2, 7, 12, 36, 64, 97, 720])
def test_divisors_are_those_that_a_loop_finds(number):
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_problems_of_heads_are_named():
    assert list(problems_of_heads(6, None, None)) == list(problems_of_heads(6, 3, 8)) == []
    assert list(problems_of_heads(0, 4, 0)) == [
        ("num_heads", "must be at least 1, got 0"),
        ("head_dim", "must be at least 1, got 0"),
    ]
    assert list(problems_of_heads(6, 4, None)) == [
        ("num_kv_heads", "4 does not divide num_heads=6; use one of [1, 2, 3, 6]")
    ]
