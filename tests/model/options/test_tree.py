import dataclasses

import pytest

from model.options.tree import check, find_problems, walk
from tests.model.carts import CART, Cart, Wheel, refused


def test_walk_meets_every_option_with_its_path():
    cart = dataclasses.replace(CART, spare=Wheel(spokes=8))
    assert [(path, type(option)) for path, option in walk(cart, "cart")] == [
        ("cart", Cart),
        ("cart.runner", Wheel),
        ("cart.spare", Wheel),
        ("cart.wheels.0", Wheel),
        ("cart.wheels.1", Wheel),
    ]
    assert [path for path, _ in walk(cart)] == ["", "runner", "spare", "wheels.0", "wheels.1"]


def test_check_lists_every_problem_with_its_path():
    check(CART)
    wrong = dataclasses.replace(CART, limit="ten", runner=Wheel(radius=-1.0), wheels=(Wheel(), Wheel(spokes=2.5)))
    assert find_problems(wrong, "cart") == [
        "cart.limit: expected int or None, got 'ten' (str)",
        "cart.runner.radius: must be above 0, got -1.0",
        "cart.wheels.1.spokes: expected int, got 2.5 (float)",
    ]
    refused(lambda: check(wrong), "this config has 3 problems:", "\n  limit: ", "\n  runner.radius: ")
    refused(
        lambda: check(Wheel(radius=0.0), "wheel"),
        "this config cannot be built:\n  wheel.radius: must be above 0, got 0.0",
    )


def test_a_value_of_the_wrong_type_is_not_asked_whether_it_makes_sense():
    assert find_problems(Wheel(radius="wide")) == ["radius: expected float, got 'wide' (str)"]


@pytest.mark.parametrize(
    ("wheel", "problem"),
    [
        (Wheel(radius=float("nan")), "radius: expected a finite number"),
        (Wheel(radius=float("inf")), "radius: expected a finite number"),
        (Wheel(radius=1e39), "radius: expected a finite number"),  # infinity in float32
        (Wheel(radius=1e-40), "radius: expected a finite number"),  # 0 in float32
        (Wheel(radius=10**400), "radius: expected a finite number"),
        (Wheel(spokes=2**32), "spokes: expected a whole number of at most 4,294,967,295, got 4294967296"),
        (
            Wheel(spokes=-(10**5000)),
            "spokes: expected a whole number of at most 4,294,967,295, got a number of thousands",
        ),
    ],
)
def test_numbers_without_an_end_are_refused_wherever_they_stand(wheel, problem):
    assert find_problems(wheel)[0].startswith(problem)
    cart = dataclasses.replace(CART, wheels=(Wheel(), wheel))
    assert find_problems(cart)[0].startswith(f"wheels.1.{problem}")
    assert len(find_problems(dataclasses.replace(CART, loads=(1.0, float("nan"))))) == 1


def test_numbers_at_the_bounds_are_taken():
    for good in (Wheel(radius=3.4e38), Wheel(radius=1.2e-38), Wheel(spokes=2**32 - 1), Wheel(spokes=0, radius=7)):
        assert find_problems(good) == []


def test_a_class_is_no_option():
    assert find_problems(dataclasses.replace(CART, runner=Wheel)) == [
        f"runner: expected Wheel(...) or Ski(...), got {Wheel!r} (type)"
    ]
